"""Batches: of whole clusters, a pure function of clusters, seed and epoch; and of items that may run together."""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from gen2embed.types import Item, UserError

LOOK_AHEAD = 64  # clusters that are passed over for one that fits


@dataclass(frozen=True)
class BatchPlan:
    """Endless batches of rows; each epoch holds every cluster, and every row that no cluster holds by itself.

    pairs: rows a batch; a multiple of the largest cluster, so that batches come out full. Smaller clusters fill up; the
    last batch of an epoch is completed with clusters from its beginning.
    subsets: the subset of each row, for batches of one subset each. The last batch of every subset is completed with
        clusters of that subset, and a subset of fewer rows than a batch makes a smaller one. None mixes the subsets.
    """

    members: Sequence[Sequence[int]]
    rows: int
    pairs: int
    seed: int
    subsets: Sequence[str] | None = None

    def __post_init__(self) -> None:
        check_sizes(self.rows, self.pairs, cluster=max(map(len, self.members), default=1))

    def __iter__(self) -> Iterator[list[int]]:
        for epoch in itertools.count():
            yield from self.epoch(epoch)

    def epoch(self, epoch: int) -> list[list[int]]:
        """The batches of one epoch."""
        held = {row for members in self.members for row in members}
        clusters = [*map(list, self.members), *([row] for row in range(self.rows) if row not in held)]
        rng = np.random.default_rng((self.seed, epoch))
        shuffled = [clusters[index] for index in rng.permutation(len(clusters))]
        if self.subsets is None:
            return self._filled(shuffled)
        apart: dict[str, list[list[int]]] = {}
        for cluster in shuffled:
            apart.setdefault(self.subsets[cluster[0]], []).append(cluster)
        batches = [batch for its in apart.values() for batch in self._filled(its)]
        return [batches[index] for index in rng.permutation(len(batches))]

    def _filled(self, clusters: Sequence[list[int]]) -> list[list[int]]:
        """Batches of all clusters, the last one completed with the first of them."""
        waiting = deque(clusters)
        batches = []
        while waiting:
            batches.append(self._take(waiting))
        last = set(batches[-1])
        spare = deque(cluster for cluster in clusters if not last & set(cluster))
        batches[-1] += self._take(spare, self.pairs - len(last))
        return batches

    def _take(self, waiting: deque[list[int]], room: int | None = None) -> list[int]:
        """Rows of the next clusters that fit."""
        room = self.pairs if room is None else room
        batch: list[int] = []
        passed: list[list[int]] = []
        while waiting and room and len(passed) < LOOK_AHEAD:
            cluster = waiting.popleft()
            if len(cluster) <= room and not set(cluster) & set(batch):
                batch += cluster
                room -= len(cluster)
            else:
                passed.append(cluster)
        waiting.extendleft(reversed(passed))
        return batch


@dataclass(frozen=True)
class Share:
    """A rank's batches: its part of each batch of the plan; all ranks have as many.

    Parts are contiguous, so that clusters stay whole where they fit; the gradient does not depend on it.
    """

    plan: BatchPlan
    rank: int = 0
    ranks: int = 1

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.plan:
            if len(batch) < self.ranks:
                raise UserError(f"a batch came out with {len(batch)} pairs for {self.ranks} ranks; raise batch.pairs")
            yield batch[self.rank * len(batch) // self.ranks : (self.rank + 1) * len(batch) // self.ranks]


def apart(items: Sequence[Item], size: int) -> Iterator[list[int]]:
    """Indices of `items` in parts of at most `size`, in order, none of which mixes items with and without pictures."""
    for with_pictures in (False, True):
        group = [index for index, item in enumerate(items) if bool(item.pictures) == with_pictures]
        yield from (group[start : start + size] for start in range(0, len(group), size))


def check_sizes(
    rows: int, pairs: int, cluster: int = 1, ranks: int = 1, query_chunk: int = 1, candidate_chunk: int = 1
) -> None:
    """Raise `UserError` unless batches of `pairs` out of `rows`, in clusters, on ranks and in chunks, are possible."""
    for name, chunk in (("query_chunk", query_chunk), ("candidate_chunk", candidate_chunk)):
        if chunk < 1:
            raise UserError(f"batch.{name}, which batch.chunk sets too, is at least 1; got {chunk}")
    if not 2 <= pairs <= rows:
        raise UserError(f"batch.pairs={pairs} must be between 2 and the number of training rows, {rows}")
    for parts, what in ((cluster, f"into clusters of {cluster} pairs"), (ranks, f"among {ranks} ranks")):
        if pairs % parts:
            unit = math.lcm(cluster, ranks)
            fits = [str(size) for size in (pairs // unit * unit, (pairs // unit + 1) * unit) if size]
            raise UserError(f"batch.pairs={pairs} is not divisible {what}; set it to {' or '.join(fits)}")
