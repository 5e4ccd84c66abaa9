"""Batches of whole clusters, a pure function of clusters, seed, epoch and ranks; and items that may run together."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from gen2embed.data.positives import Cluster, Parts, Positives
from gen2embed.training.weights import check_weights
from gen2embed.utils.errors import UserError

Batch = list[list[int]]  # the rows of each rank

LOOK_AHEAD = 64  # clusters that are passed over for one that fits
SPREAD = 1  # the random stream that spaces equal positives


@dataclass(frozen=True)
class ClusterBatchSampler:
    """Endless batches of rows, each in parts of equal size, one for each rank.

    1. Clusters, and the rows that no cluster holds, come in turn, in an order that is shuffled for every pass: none
       comes again before all others came. An epoch is one pass, or of each subset what `weights` say.
    2. They fill the parts of one batch after the other. A cluster goes into one part whole, or waits for the next.
    3. What is left of a part that no cluster fits, and of the last batch, is filled with clusters that come again, and
       with single rows where none of them fits.
    4. Batches whose candidates would all be one item, which train nothing, exchange clusters with others.

    pairs: rows a batch. ranks: parts a batch.
    subsets: the subset of each row; None knows of none, and mixes them.
    mixed: a batch may hold several subsets. Otherwise it is of one, and a subset of fewer rows makes smaller batches.
    weights: the share of an epoch that each subset has; None leaves them as large as they are.
    positives: which rows have equal positives; None knows of none.
    distinct: keep rows of equal positives in different batches, as far as there are others.
    """

    members: Sequence[Cluster]
    rows: int
    pairs: int
    seed: int
    ranks: int = 1
    subsets: Sequence[str] | None = None
    mixed: bool = True
    weights: Mapping[str, float] | None = None
    positives: Positives | None = None
    distinct: bool = False

    def __post_init__(self) -> None:
        check_sizes(self.rows, self.pairs, ranks=self.ranks)
        if (largest := max(map(len, self.members), default=1)) > self.pairs // self.ranks:
            raise UserError(
                f"batch.pairs={self.pairs} makes {self.pairs // self.ranks} pairs a rank, and there are clusters of "
                f"{largest}; raise it"
            )
        if self.weights is not None:
            check_weights(self.weights, self.subsets or ())
        if self.mixed and sum(self._distinct.values()) < self.pairs:
            raise UserError(f"batch.pairs={self.pairs} is more than the subsets with a weight have rows; lower it")
        for name, rows in self._distinct.items():
            if not self.mixed and rows < max(2, self.ranks):
                raise UserError(
                    f"the subset {name} has too few rows for a batch of its own on {self.ranks} ranks: {rows}; set "
                    "batch.mixed=true, or leave it out of data.subsets"
                )

    def after(self, batches: int) -> Iterator[Batch]:
        """All batches but the first so many."""
        for epoch in itertools.count():
            made = self.epoch(epoch)
            yield from made[batches:]
            batches = max(0, batches - len(made))

    def epoch(self, epoch: int) -> list[Batch]:
        rng = np.random.default_rng((self.seed, epoch))
        turns = {name: self._turn(name, epoch) for name in self._groups}
        if self.mixed:
            clusters = [cluster for its in turns.values() for cluster in its]
            clusters = [clusters[index] for index in rng.permutation(len(clusters))]
            everything = [cluster for its in self._groups.values() for cluster in its]
            return self._filled(clusters, everything, self.pairs, epoch)
        batches = [
            batch
            for name, its in turns.items()
            for batch in self._filled(its, self._groups[name], min(self.pairs, self._distinct[name]), epoch)
        ]
        return [batches[index] for index in rng.permutation(len(batches))]

    @property
    def sizes(self) -> set[int]:
        """The numbers of rows that batches have."""
        if self.mixed:
            return {self.pairs}
        return {min(self.pairs, rows) // self.ranks * self.ranks for rows in self._distinct.values()}

    @cached_property
    def _groups(self) -> dict[str, list[Cluster]]:
        """The clusters, and rows that none holds, of each subset that has a weight; all together without subsets."""
        held = {row for cluster in self.members for row in cluster}
        groups: dict[str, list[Cluster]] = {}
        for cluster in [*self.members, *([row] for row in range(self.rows) if row not in held)]:
            name = self.subsets[cluster[0]] if self.subsets else ""
            if self.weights is None or self.weights[name] > 0:
                groups.setdefault(name, []).append(cluster)
        return groups

    @cached_property
    def _distinct(self) -> dict[str, int]:
        """Rows of each group."""
        return {name: len({row for cluster in its for row in cluster}) for name, its in self._groups.items()}

    def _turn(self, name: str, epoch: int) -> list[Cluster]:
        """What an epoch takes of a group: so many of the endless passes, from where the last epoch stopped."""
        clusters = self._groups[name]
        count = len(clusters)
        if self.weights is not None:
            rows = sum(len(cluster) for its in self._groups.values() for cluster in its)
            share = self.weights[name] / sum(self.weights[group] for group in self._groups)
            count = max(1, round(rows * share / np.mean([len(cluster) for cluster in clusters])))
        passes = range(epoch * count // len(clusters), ((epoch + 1) * count - 1) // len(clusters) + 1)
        orders = [
            np.random.default_rng([self.seed, turn, *name.encode()]).permutation(len(clusters)) for turn in passes
        ]
        first = epoch * count - passes[0] * len(clusters)
        return [clusters[index] for index in np.concatenate(orders)[first : first + count]]

    def _filled(self, clusters: Sequence[Cluster], spare: Sequence[Cluster], pairs: int, epoch: int) -> list[Batch]:
        """Batches of the clusters, of about `pairs` rows. spare: what completes them, with at least so many rows."""
        size = pairs // self.ranks
        apart = self.positives if self.distinct else None
        if apart:
            clusters = apart.spread(clusters, np.random.default_rng([self.seed, epoch, SPREAD]))
        # of a subset that is smaller than a batch, a part may be smaller than a cluster
        waiting = deque(cluster[at : at + size] for cluster in clusters for at in range(0, len(cluster), size))
        again = itertools.cycle([*clusters, *spare])
        batches: list[Parts] = []
        while waiting:
            taken = _Taken(apart)
            batches.append([_take(waiting, size, taken) for _ in range(self.ranks)])
            if apart and waiting:  # what is left can only repeat a positive
                for part in batches[-1]:
                    part.extend(_take(waiting, size - _count(part), taken, repeat=True))
            for part in batches[-1]:
                if room := size - _count(part):
                    part.extend(_take(deque(itertools.islice(again, LOOK_AHEAD)), room, taken, repeat=True))
                while (room := size - _count(part)) > 0:
                    if rows := [row for row in next(again) if row not in taken.rows][:room]:
                        part.append(rows)
                        taken.add(rows)
        if self.positives:
            self.positives.mend(batches)
        return [[list(itertools.chain.from_iterable(part)) for part in batch] for batch in batches]


class _Taken:
    """The rows of a batch, and the numbers of their positives where those are kept apart."""

    def __init__(self, apart: Positives | None) -> None:
        self.apart, self.rows, self.numbers = apart, set[int](), set[int]()

    def add(self, cluster: Cluster) -> None:
        self.rows.update(cluster)
        if self.apart:
            self.numbers.update(self.apart.numbers[list(cluster)].tolist())

    def takes(self, cluster: Cluster, *, repeat: bool) -> bool:
        """Whether a cluster has no row that is taken, and, unless it may repeat them, no positive that is."""
        fresh = repeat or not self.apart or self.numbers.isdisjoint(self.apart.numbers[list(cluster)].tolist())
        return fresh and self.rows.isdisjoint(cluster)


def _take(waiting: deque[Cluster], room: int, taken: _Taken, *, repeat: bool = False) -> list[Cluster]:
    """Take the next clusters that fit into `room` rows and that the batch takes."""
    part: list[Cluster] = []
    passed: list[Cluster] = []
    ahead = max(LOOK_AHEAD, 4 * room) if taken.apart and not repeat else LOOK_AHEAD
    while waiting and room and len(passed) < ahead:
        cluster = waiting.popleft()
        if len(cluster) <= room and taken.takes(cluster, repeat=repeat):
            part.append(cluster)
            taken.add(cluster)
            room -= len(cluster)
        else:
            passed.append(cluster)
    waiting.extendleft(reversed(passed))
    return part


def _count(part: Sequence[Cluster]) -> int:
    return sum(map(len, part))


@dataclass(frozen=True)
class RankBatchSampler:
    """A rank's batches: its part of each batch of the plan, from the `first` on; all ranks have as many.

    ranks: that share a batch; None is as many as the plan was made for. Others divide the same batches anew.
    """

    plan: ClusterBatchSampler
    rank: int = 0
    first: int = 0
    ranks: int | None = None

    def __post_init__(self) -> None:
        """Raise `UserError` if a batch of the plan cannot be divided among the ranks."""
        for size in self.plan.sizes:
            if size % self.count:
                raise UserError(
                    f"batches were planned for {self.plan.ranks} ranks, and {self.count} cannot share {size} pairs "
                    f"equally; set trainer.devices so that there are {self.plan.ranks}, or choose another output_dir"
                )

    @property
    def count(self) -> int:
        """How many ranks share a batch."""
        return self.ranks or self.plan.ranks

    def __iter__(self) -> Iterator[list[int]]:
        return (self.part(batch, self.rank) for batch in self.plan.after(self.first))

    def part(self, batch: Batch, rank: int) -> list[int]:
        """Return a rank's part of a batch."""
        if self.count == self.plan.ranks:
            return batch[rank]
        rows, size = list(itertools.chain.from_iterable(batch)), sum(map(len, batch)) // self.count
        return rows[rank * size : (rank + 1) * size]


def check_sizes(
    rows: int, pairs: int, cluster: int = 1, ranks: int = 1, chunk: int | None = None, chunk_tokens: int | None = None
) -> None:
    """Raise `UserError` unless batches of `pairs` out of `rows`, in clusters, on ranks and in chunks, are possible."""
    for name, size in (("chunk", chunk), ("chunk_tokens", chunk_tokens)):
        if size is not None and size < 1:
            raise UserError(f"batch.{name} is at least 1, or null; got {size}")
    if not 2 <= pairs <= rows:
        raise UserError(f"batch.pairs={pairs} must be between 2 and the number of training rows, {rows}")
    unit = cluster * ranks
    if pairs % unit:
        fits = [str(size) for size in (pairs // unit * unit, (pairs // unit + 1) * unit) if size]
        whole = f"into whole clusters of {cluster} pairs " if cluster > 1 else ""
        among = f"on {ranks} ranks" if ranks > 1 else ""
        raise UserError(
            f"batch.pairs={pairs} cannot be split {whole}{among}".rstrip() + f"; set it to {' or '.join(fits)}"
        )
