"""Batches of whole clusters, as a pure function of clusters, seed, epoch and number of ranks."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from gen2embed.data.positives import Cluster, Positives
from gen2embed.training.filling import fill_batches
from gen2embed.training.weights import check_subset_weights
from gen2embed.utils.errors import UserError

Batch = list[list[int]]  # the rows of each rank

SPREAD = 1  # part of the seed of the random numbers that space equal positives, which the shuffling does not share


@dataclass(frozen=True)
class ClusterBatchSampler:
    """Endless batches of rows, each in parts of equal size, one for each rank.

    1. Clusters, and single rows that are in no cluster, come in an order that is shuffled for every pass: none comes
       again before all others came. An epoch is one pass, or as much of each subset's passes as `weights` say.
    2. They fill the parts of one batch after the other (`filling`). A cluster goes into one part whole, or waits for
       the next.
    3. Room that no cluster fits into, and the rest of the last batch, is filled with clusters that come again, and with
       single rows where none of them fits.
    4. A batch whose candidates would all be one item, which trains nothing, exchanges clusters with others.

    Args:
        members: The rows of each cluster.
        rows: The number of rows of the training data.
        pairs: The number of rows of a batch, of all ranks.
        seed: Decides the order.
        ranks: The number of parts of a batch.
        subsets: The subset of each row; None mixes all rows.
        mixed: Whether a batch may hold several subsets. If not, a subset of fewer rows makes smaller batches.
        weights: The share of each subset in the rows of an epoch, relative to the others: with {a: 3, b: 1}, three
            quarters of them are of a. None takes each row once.
        positives: Which rows have equal positives; None treats all as different.
        distinct: Whether rows of equal positives are kept in different batches, as far as there are others.
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
        """Raise `UserError` for sizes and weights that make no such batches."""
        check_sizes(self.rows, self.pairs, ranks=self.ranks)
        if (largest := max(map(len, self.members), default=1)) > self.pairs // self.ranks:
            raise UserError(
                f"batch.pairs={self.pairs} makes {self.pairs // self.ranks} pairs a rank, and there are clusters of "
                f"{largest}; raise it"
            )
        if self.weights is not None:
            check_subset_weights(self.weights, self.subsets or ())
        if self.mixed and sum(self._sizes.values()) < self.pairs:
            raise UserError(f"batch.pairs={self.pairs} is more than the subsets with a weight have rows; lower it")
        for name, rows in self._sizes.items():
            if not self.mixed and rows < max(2, self.ranks):
                raise UserError(
                    f"the subset {name} has too few rows for a batch of its own on {self.ranks} ranks: {rows}; set "
                    "batch.mixed=true, or leave it out of data.subsets"
                )

    def after(self, batches: int) -> Iterator[Batch]:
        """Yield all batches but the first `batches`, without end."""
        for epoch in itertools.count():
            planned = self.epoch(epoch)
            yield from planned[batches:]
            batches = max(0, batches - len(planned))

    def epoch(self, epoch: int) -> list[Batch]:
        """Return the batches of an epoch, in order."""
        rng = np.random.default_rng((self.seed, epoch))
        by_group = {name: self._clusters_of_epoch(name, epoch) for name in self._groups}
        if self.mixed:
            clusters = list(itertools.chain.from_iterable(by_group.values()))
            clusters = [clusters[index] for index in rng.permutation(len(clusters))]
            spare = list(itertools.chain.from_iterable(self._groups.values()))
            return self._fill(clusters, spare, self.pairs, epoch)
        batches = [
            batch
            for name, clusters in by_group.items()
            for batch in self._fill(clusters, self._groups[name], min(self.pairs, self._sizes[name]), epoch)
        ]
        return [batches[index] for index in rng.permutation(len(batches))]

    @property
    def sizes(self) -> set[int]:
        """The numbers of rows that batches have."""
        if self.mixed:
            return {self.pairs}
        return {min(self.pairs, rows) // self.ranks * self.ranks for rows in self._sizes.values()}

    @cached_property
    def _groups(self) -> dict[str, list[Cluster]]:
        """The clusters, and rows in no cluster, of each subset that has a weight; all in one group without subsets."""
        clustered = {row for cluster in self.members for row in cluster}
        groups: dict[str, list[Cluster]] = {}
        for cluster in [*self.members, *([row] for row in range(self.rows) if row not in clustered)]:
            name = self.subsets[cluster[0]] if self.subsets else ""
            if self.weights is None or self.weights[name] > 0:
                groups.setdefault(name, []).append(cluster)
        return groups

    @cached_property
    def _sizes(self) -> dict[str, int]:
        """The number of different rows of each group."""
        return {name: len({row for cluster in group for row in cluster}) for name, group in self._groups.items()}

    def _clusters_of_epoch(self, name: str, epoch: int) -> list[Cluster]:
        """Return the clusters of a group that an epoch takes, from where the last epoch stopped in the group's passes.

        Passes are shuffled one by one and follow each other without end. Of 5 clusters, 3 an epoch, epoch 0 takes
        places 0 to 2 of pass 0, and epoch 1 takes places 3 and 4 of pass 0 and place 0 of pass 1.
        """
        clusters = self._groups[name]
        count = len(clusters)
        if self.weights is not None:
            rows = sum(len(cluster) for group in self._groups.values() for cluster in group)
            share = self.weights[name] / sum(self.weights[group] for group in self._groups)
            count = max(1, round(rows * share / np.mean([len(cluster) for cluster in clusters])))
        passes = range(epoch * count // len(clusters), ((epoch + 1) * count - 1) // len(clusters) + 1)
        orders = [
            np.random.default_rng([self.seed, number, *name.encode()]).permutation(len(clusters)) for number in passes
        ]
        first = epoch * count - passes[0] * len(clusters)
        return [clusters[index] for index in np.concatenate(orders)[first : first + count]]

    def _fill(self, clusters: Sequence[Cluster], spare: Sequence[Cluster], pairs: int, epoch: int) -> list[Batch]:
        """Return batches of the clusters, of about `pairs` rows, as rows of each rank."""
        spread_by = np.random.default_rng([self.seed, epoch, SPREAD]) if self.distinct else None
        batches = fill_batches(clusters, spare, pairs // self.ranks, self.ranks, self.positives, spread_by)
        return [[list(itertools.chain.from_iterable(part)) for part in batch] for batch in batches]


@dataclass(frozen=True)
class RankBatchSampler:
    """A rank's batches: its part of each batch of a plan. All ranks have the same number of batches.

    Args:
        plan: The batches of all ranks.
        rank: The rank whose parts are returned.
        first: The number of batches to leave out at the beginning, as a run that goes on does.
        ranks: The number of ranks that share a batch; None is the number that the plan was made for. Another number
            divides the same batches anew.
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
        """The number of ranks that share a batch."""
        return self.ranks or self.plan.ranks

    def __iter__(self) -> Iterator[list[int]]:
        return (self.part(batch, self.rank) for batch in self.plan.after(self.first))

    def part(self, batch: Batch, rank: int) -> list[int]:
        """Return a rank's part of a batch."""
        if self.count == self.plan.ranks:
            return batch[rank]
        rows, size = list(itertools.chain.from_iterable(batch)), sum(map(len, batch)) // self.count
        return rows[rank * size : (rank + 1) * size]


def check_sizes(rows: int, pairs: int, cluster: int = 1, ranks: int = 1) -> None:
    """Raise `UserError` unless batches of whole clusters can be divided equally among the ranks.

    Args:
        rows: The number of rows of the training data.
        pairs: The number of rows of a batch.
        cluster: The number of rows of a full cluster.
        ranks: The number of ranks that share a batch.
    """
    if not 2 <= pairs <= rows:
        raise UserError(f"batch.pairs={pairs} must be between 2 and the number of training rows, {rows}")
    unit = cluster * ranks
    if pairs % unit:
        nearest = [str(size) for size in (pairs // unit * unit, (pairs // unit + 1) * unit) if size]
        clusters = f"into whole clusters of {cluster} pairs " if cluster > 1 else ""
        among = f"on {ranks} ranks" if ranks > 1 else ""
        raise UserError(
            f"batch.pairs={pairs} cannot be split {clusters}{among}".rstrip() + f"; set it to {' or '.join(nearest)}"
        )
