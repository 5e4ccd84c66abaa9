"""Which rows of a subset may not meet in a cluster, and which are in no cluster."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from gen2embed.mining.base import Subset
from gen2embed.utils.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Filters:
    """Which rows may not meet beyond the known positives, for every two rows of a cluster. None filters nothing.

    Args:
        max_similarity: How similar, at most, a query is to another row's positive (`max_score` in
            sentence-transformers' `mine_hard_negatives`).
        positive_share: The same, as a share of the query's similarity to its own positive (TopK-PercPos of
            NV-Retriever, arXiv 2407.15831, whose best value was 0.95).
        positive_margin: The same, as the query's similarity to its own positive less this margin (TopK-MarginPos,
            there; 0.05).
        min_teacher_score: Rows whose query and positive another model scores lower are doubtful pairs and in no cluster
            (after the denoising of RocketQA, arXiv 2010.08191). The scores are a column of the data,
            `data.teacher_column`.
    """

    max_similarity: float | None = None
    positive_share: float | None = None
    positive_margin: float | None = None
    min_teacher_score: float | None = None

    def __post_init__(self) -> None:
        if self.positive_share is not None and self.positive_share <= 0:
            raise UserError(f"mining.positive_share is above 0; got {self.positive_share}")
        if self.positive_margin is not None and self.positive_margin < 0:
            raise UserError(f"mining.positive_margin is at least 0; got {self.positive_margin}")

    def ceilings(self, subset: Subset) -> Float[np.ndarray, " n"] | None:
        """Return how similar another row's positive may be to each query; None if there is no limit."""
        if (self.max_similarity, self.positive_share, self.positive_margin) == (None, None, None):
            return None
        own = np.einsum("nd,nd->n", subset.queries, subset.candidates[subset.positive])
        limit = np.full(len(own), np.inf if self.max_similarity is None else self.max_similarity)
        if self.positive_share is not None:
            limit = np.minimum(limit, self.positive_share * own)
        if self.positive_margin is not None:
            limit = np.minimum(limit, own - self.positive_margin)
        return limit

    def admitted(self, subset: Subset) -> Bool[np.ndarray, " n"]:
        """Return which rows may be in a cluster at all."""
        if self.min_teacher_score is None:
            return np.ones(len(subset.queries), bool)
        if subset.teacher is None:
            raise UserError("mining.min_teacher_score needs scores: set data.teacher_column to the column of them")
        return subset.teacher >= self.min_teacher_score


class FalseNegativeMask:
    """Which rows must not meet in a cluster: two rows, if the positive of one is a known positive of the other's query.

    So rows with the same positive do not meet, nor do rows of one query. `Filters` add further rows.
    """

    def __init__(self, subset: Subset, filters: Filters) -> None:
        self.subset = subset
        self.ceilings = filters.ceilings(subset)
        _, self.ids = np.unique(subset.query_ids, return_inverse=True)
        several = self.ids.max() + 1 < len(self.ids)  # a query has two positives: equal positives are not all
        self.known = np.unique(self._key(self.ids, subset.positive)) if several else None

    def __call__(self, rows: Int[np.ndarray, " a"], others: Int[np.ndarray, " b"]) -> Bool[np.ndarray, "a b"]:
        """Return which of `rows` must not meet which of `others`; the relation is symmetric."""
        positive = self.subset.positive
        apart = positive[rows][:, None] == positive[others]
        if self.known is not None:
            apart |= self._is_known(rows, others) | self._is_known(others, rows).T
        if self.ceilings is not None:
            apart |= self._too_similar(rows, others) | self._too_similar(others, rows).T
        return apart

    def _key(self, ids: np.ndarray, positive: np.ndarray) -> np.ndarray:
        """Return one number for a query and a candidate."""
        return ids.astype(np.int64) * len(self.subset.candidates) + positive

    def _is_known(self, rows: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Return whether the positives of `others` are known positives of the queries of `rows`."""
        assert self.known is not None
        keys = self._key(self.ids[rows][:, None], self.subset.positive[others])
        return self.known[np.searchsorted(self.known, keys).clip(max=len(self.known) - 1)] == keys

    def _too_similar(self, rows: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Return whether the positives of `others` are above the ceilings of the queries of `rows`."""
        assert self.ceilings is not None
        positives = self.subset.candidates[self.subset.positive[others]]
        return self.subset.queries[rows] @ positives.T > self.ceilings[rows][:, None]
