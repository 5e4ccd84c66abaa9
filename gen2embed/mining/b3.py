"""B3 (arXiv 2505.11293): clusters are communities of rows that prefer each other's positives.

As in its authors' code (github.com/raghavlite/B3, data_processing):

    1. Each row ranks the candidates by similarity. It prefers those of ranks p to p + m: the first p may be false
       negatives. In a classification subset it prefers the first 30 % of the labels, without its own.
    2. Two rows that prefer each other's positives are linked.
    3. METIS cuts the graph into n // (K + 1) communities of about equal size.
    4. Communities that are too large give rows to those that are too small.

Two things differ. A row is linked to one of the owners of a candidate, in turn by the row's index, so that the graph
stays sparse. And rows that may not meet are taken out of a community, which `Grouping` then completes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Int

from gen2embed.mining.base import Subset
from gen2embed.mining.filters import Filters
from gen2embed.mining.grouping import Grouping
from gen2embed.mining.owners import GroupIndex
from gen2embed.types import Advance, no_progress
from gen2embed.utils.errors import UserError


@dataclass(frozen=True, kw_only=True)
class B3(Filters):
    """Communities of rows that prefer each other's positives.

    Args:
        top_k: K. A full cluster has K + 1 rows.
        skip_ranks: p. The first candidates, which may be false negatives.
        window: m. How many candidates after those a row prefers.
        label_share: The share of the candidates that a row prefers in a classification subset, or in one with at most
            p + m candidates.
        seed: The seed of METIS.
    """

    embeds: ClassVar[bool] = True
    top_k: int = 15
    skip_ranks: int = 30
    window: int = 100
    label_share: float = 0.3
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.top_k < 1 or self.skip_ranks < 0 or self.window < 1 or not 0 < self.label_share <= 1:
            raise UserError(
                "mining.top_k and window are at least 1, skip_ranks at least 0 and label_share in (0, 1]; got "
                f"{self.top_k}, {self.window}, {self.skip_ranks} and {self.label_share}"
            )

    @property
    def neighbours(self) -> int:
        return self.skip_ranks + self.window

    def mine(self, subset: Subset, advance: Advance = no_progress) -> list[list[int]]:
        subset.check(self.top_k)
        grouping = Grouping(subset, self.top_k, self, advance)
        neighbours, starts = mutual(self._preferred(subset), subset.positive, len(subset.candidates))
        for rows in self._communities(neighbours, starts, len(subset.queries) // (self.top_k + 1)):
            if len(free := rows[grouping.free[rows]]):
                grouping.start(int(free[0]), free[1:])
        return grouping.finish()

    def _preferred(self, subset: Subset) -> Int[np.ndarray, "n w"]:
        """Return the candidates that each row prefers."""
        candidates = len(subset.candidates)
        if subset.classification or candidates <= self.neighbours:
            labels = int(np.ceil(candidates * self.label_share))
            pools = subset.top(labels + 1)
            own_last = np.argsort(pools == subset.positive[:, None], axis=1, kind="stable")
            return np.take_along_axis(pools, own_last, axis=1)[:, :labels]
        return subset.top(self.neighbours)[:, self.skip_ranks :]

    def _communities(self, neighbours: np.ndarray, starts: np.ndarray, count: int) -> list[np.ndarray]:
        """Return the rows of each community; the graph is in CSR form."""
        try:
            import pymetis  # noqa: PLC0415
        except ImportError as error:
            raise UserError("mining=b3 needs pymetis: pip install 'gen2embed[b3]'") from error
        graph = pymetis.CSRAdjacency(starts, neighbours)
        cut = pymetis.part_graph(max(count, 1), graph, options=pymetis.Options(seed=self.seed))
        parts = GroupIndex(np.asarray(cut.vertex_part), max(count, 1))
        return [parts[part] for part in range(max(count, 1))]


def mutual(
    preferred: Int[np.ndarray, "n w"], positive: Int[np.ndarray, " n"], candidates: int
) -> tuple[Int[np.ndarray, " e"], Int[np.ndarray, " s"]]:
    """Return the graph of rows that prefer each other's positives, in CSR form: neighbours, and each row's start.

    Args:
        preferred: The candidates that each row prefers.
        positive: The candidate that each row is paired with.
        candidates: The number of candidates.
    """
    owners, rows = GroupIndex(positive, candidates), np.arange(len(positive))
    counts = np.diff(owners.starts)[preferred]  # owners of each preferred candidate
    turn = owners.starts[preferred] + rows[:, None] % np.maximum(counts, 1)
    row, column = np.nonzero(counts)
    owner = owners.rows[turn[row, column]]  # a row and a column stand for a row and an owner of what it prefers
    wishes = np.sort((rows[:, None] * candidates + preferred).ravel())
    wish = owner * candidates + positive[row]  # that the owner prefers this row's positive
    linked = wishes[np.searchsorted(wishes, wish).clip(max=len(wishes) - 1)] == wish
    linked &= row != owner
    links = np.concatenate(([row[linked], owner[linked]], [owner[linked], row[linked]]), axis=1)
    links = np.unique(links, axis=1)  # each link in both directions, once, in order of the row
    return links[1], GroupIndex(links[0], len(positive)).starts
