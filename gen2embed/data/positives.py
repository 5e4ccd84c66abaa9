"""Keep rows of equal positives apart: a batch whose candidates are all one item has loss 0 and trains nothing."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int

from gen2embed.data.numbering import number_distinct, rows_by_subset
from gen2embed.types import ImagePart, Item, Pair

Cluster = Sequence[int]  # rows that stay together
Parts = list[list[Cluster]]  # a batch: the clusters of each of its parts


@dataclass(frozen=True)
class Positives:
    """Which rows have equal positives.

    Args:
        numbers: A number for each row, equal for equal positives.
        contrasted: Whether each row has a negative of its own, so that its batch has one.
    """

    numbers: Int[np.ndarray, " rows"]
    contrasted: Bool[np.ndarray, " rows"]

    @classmethod
    def from_pairs(cls, pairs: Sequence[Pair]) -> Positives:
        """Return the positives of training pairs; picture files are compared by their paths, and not read."""
        numbers, _ = number_distinct(_identity(pair.positive) for pair in pairs)
        contrasted = [any(_identity(item) != _identity(pair.positive) for item in pair.negatives) for pair in pairs]
        return cls(numbers, np.array(contrasted, bool))

    def only_candidate(self, rows: Iterable[int]) -> int | None:
        """Return the number of the only candidate that a batch of `rows` has; None if it has several."""
        rows = list(rows)
        first = self.numbers[rows[0]]
        if self.contrasted[rows].any() or (self.numbers[rows] != first).any():
            return None
        return int(first)

    def lone_subsets(self, pairs: Sequence[Pair]) -> dict[str, list[int]]:
        """Return the rows of each subset in which all pairs have the same positive and no negative of their own."""
        return {name: rows for name, rows in rows_by_subset(pairs).items() if self.only_candidate(rows) is not None}

    def spread(self, clusters: Sequence[Cluster], rng: np.random.Generator) -> list[Cluster]:
        """Return the clusters in an order in which those of equal first positives are evenly spaced.

        The k-th of n clusters of a positive stands at (k + u) / n of the way, with a random u for each positive.
        """
        firsts = self.numbers[[cluster[0] for cluster in clusters]]
        counts, shifts = Counter(firsts.tolist()), rng.random(int(self.numbers.max()) + 1)
        passed: Counter[int] = Counter()
        places = np.empty(len(clusters))
        for at, number in enumerate(firsts.tolist()):
            places[at] = (passed[number] + shifts[number]) / counts[number]
            passed[number] += 1
        return [clusters[at] for at in places.argsort(kind="stable")]

    def mend(self, batches: Sequence[Parts]) -> None:
        """Exchange clusters of equal size so that no batch has a single candidate, as far as other batches allow it."""
        lone = [(batch, number) for batch in batches if (number := self.only_candidate(_rows(batch))) is not None]
        donors: dict[int, deque[Parts]] = {}
        for batch, number in lone:
            if self.only_candidate(_rows(batch)) is None:  # it was a donor in the meantime
                continue
            if number not in donors:
                donors[number] = deque(donor for donor in batches if self.only_candidate(_rows(donor)) != number)
            left = donors[number]
            while left and not self._exchange(batch, left[0], number):
                left.popleft()
            left.rotate(-1)

    def _exchange(self, batch: Parts, donor: Parts, number: int) -> bool:
        """Give a batch, whose one candidate is `number`, a cluster with another; False if the donor can spare none."""
        spare = [
            (part, at)
            for part, clusters in enumerate(donor)
            for at, cluster in enumerate(clusters)
            if self.only_candidate(cluster) != number
        ]
        if len(spare) < 2:  # one must stay
            return False
        batch_rows, donor_rows = set(_rows(batch)), set(_rows(donor))
        sizes: dict[int, tuple[int, int]] = {}  # of the batch's clusters, the first that fits into the donor
        for part, clusters in enumerate(batch):
            for at, cluster in enumerate(clusters):
                if donor_rows.isdisjoint(cluster):
                    sizes.setdefault(len(cluster), (part, at))
        for part, at in spare:
            cluster = donor[part][at]
            if len(cluster) in sizes and batch_rows.isdisjoint(cluster):
                batch_part, batch_at = sizes[len(cluster)]
                donor[part][at], batch[batch_part][batch_at] = batch[batch_part][batch_at], cluster
                return True
        return False


def _identity(item: Item) -> Hashable:
    """Return a key that is equal for items of the same texts and the same picture files, in the same order."""
    parts = (part if isinstance(part, str) else ("picture", _source(part)) for part in item.parts)
    return (*parts, ("instruction", item.instruction))


def _source(picture: ImagePart) -> Hashable:
    return picture.source if isinstance(picture.source, Path) else id(picture.source)


def _rows(batch: Parts) -> list[int]:
    return [row for clusters in batch for cluster in clusters for row in cluster]
