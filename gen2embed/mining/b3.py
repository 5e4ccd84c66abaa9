"""B3 (arXiv 2505.11293): clusters are communities of rows that prefer each other's positives.

As in its authors' code (github.com/raghavlite/B3, data_processing):

    1. Each row ranks the candidates, by a teacher's embeddings or those at hand. It prefers those of ranks p to p + m:
       the first p may be false negatives. In a classification subset it prefers the first 30 % of the labels, less its
       own.
    2. Two rows that prefer each other's positives are linked.
    3. METIS cuts the graph into n // (K + 1) communities of about equal size.
    4. Communities that came out too large give rows to those that came out too small.

Two things differ. Of a candidate with several owners a row is linked to one, in turn by the row's index, so that
the graph stays sparse. And rows that may not meet are taken out of a community: `Grouping` completes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gen2embed.mining.base import Subset
from gen2embed.mining.filters import Filters
from gen2embed.mining.grouping import Grouping
from gen2embed.mining.owners import GroupIndex
from gen2embed.types import Advance, unseen
from gen2embed.utils.errors import UserError


@dataclass(frozen=True, kw_only=True)
class B3(Filters):
    """top_k: K. skip_ranks: p. window: m. label_share: the share of labels that a row of a classification subset, or of
    one with at most p + m candidates, prefers. seed: METIS's.
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

    def mine(self, subset: Subset, advance: Advance = unseen) -> list[list[int]]:
        subset.check(self.top_k)
        grouping = Grouping(subset, self.top_k, self, advance)
        neighbours, starts = mutual(self._preferred(subset), subset.positive, len(subset.candidates))
        for rows in self._communities(neighbours, starts, len(subset.queries) // (self.top_k + 1)):
            if len(free := rows[grouping.free[rows]]):
                grouping.start(int(free[0]), free[1:])
        return grouping.finish()

    def _preferred(self, subset: Subset) -> np.ndarray:
        """(n, w) the candidates that each row prefers."""
        candidates = len(subset.candidates)
        if subset.classification or candidates <= self.neighbours:
            labels = int(np.ceil(candidates * self.label_share))
            found = subset.top(labels + 1)
            others = np.argsort(found == subset.positive[:, None], axis=1, kind="stable")  # its own goes last
            return np.take_along_axis(found, others, axis=1)[:, :labels]
        return subset.top(self.neighbours)[:, self.skip_ranks :]

    def _communities(self, neighbours: np.ndarray, starts: np.ndarray, count: int) -> list[np.ndarray]:
        try:
            import pymetis  # noqa: PLC0415
        except ImportError as error:
            raise UserError("mining=b3 needs pymetis: pip install 'gen2embed[b3]'") from error
        graph = pymetis.CSRAdjacency(starts, neighbours)
        cut = pymetis.part_graph(max(count, 1), graph, options=pymetis.Options(seed=self.seed))
        parts = GroupIndex(np.asarray(cut.vertex_part), max(count, 1))
        return [parts[part] for part in range(max(count, 1))]


def mutual(preferred: np.ndarray, positive: np.ndarray, candidates: int) -> tuple[np.ndarray, np.ndarray]:
    """The neighbours of each row, one row after the other, and where each row's begin: rows that prefer each other's
    positives, of a candidate with several owners one.
    """
    owners, rows = GroupIndex(positive, candidates), np.arange(len(positive))
    owned = np.diff(owners.starts)[preferred]
    turn = owners.starts[preferred] + rows[:, None] % np.maximum(owned, 1)
    row, column = np.nonzero(owned)
    other = owners.rows[turn[row, column]]
    wishes = np.sort((rows[:, None] * candidates + preferred).ravel())
    back = other * candidates + positive[row]  # the other prefers this row's positive
    linked = wishes[np.searchsorted(wishes, back).clip(max=len(wishes) - 1)] == back
    linked &= row != other
    ends = np.concatenate(([row[linked], other[linked]], [other[linked], row[linked]]), axis=1)
    ends = np.unique(ends, axis=1)  # each link in both directions, once, in order of the row
    return ends[1], np.searchsorted(ends[0], np.arange(len(positive) + 1))
