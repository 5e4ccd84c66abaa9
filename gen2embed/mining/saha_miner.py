"""SaHa as a miner: the paper's algorithm, and one that keeps known false negatives apart; and the hardest instead."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gen2embed.mining.base import Subset
from gen2embed.mining.filters import Filters
from gen2embed.mining.grouping import Grouping
from gen2embed.mining.saha import group
from gen2embed.types import Advance, UserError, unseen


@dataclass(frozen=True)
class SaHaPaper:
    """The paper's algorithm (`gen2embed.mining.saha`). top_k: K; a full cluster has K + 1 pairs. pool_multiplier: m."""

    embeds: ClassVar[bool] = True
    top_k: int = 15
    pool_multiplier: int = 3

    def __post_init__(self) -> None:
        _check_pool(self.top_k, self.pool_multiplier)

    @property
    def neighbours(self) -> int:
        return 2 * self.top_k * self.pool_multiplier

    def mine(self, subset: Subset, advance: Advance = unseen) -> list[list[int]]:
        subset.check(self.top_k)
        return group(
            subset.top(self.neighbours), subset.queries, subset.positive,
            self.top_k, self.pool_multiplier, subset.classification, subset.query_ids, advance,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _Walk(Filters):
    """Anchors in the order of the data, each with owners of its top candidates; then `Grouping`'s steps 2 to 4.

    top_k: K. pool_multiplier: m; an anchor looks at 2*K*m candidates and takes at most K*m owners, to choose K from.
    skip_ranks: owners of an anchor's first candidates are not taken (the rank window of sentence-transformers'
        `range_min`; its own positive counts as a rank).
    min_similarity: an owner's positive is at least so similar to the anchor query (its `min_score`).
    """

    embeds: ClassVar[bool] = True
    safest_first: ClassVar[bool]
    top_k: int = 15
    pool_multiplier: int = 3
    skip_ranks: int = 0
    min_similarity: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_pool(self.top_k, self.pool_multiplier)
        if self.skip_ranks < 0:
            raise UserError(f"mining.skip_ranks is at least 0; got {self.skip_ranks}")

    @property
    def neighbours(self) -> int:
        return self.skip_ranks + 2 * self.top_k * self.pool_multiplier

    def mine(self, subset: Subset, advance: Advance = unseen) -> list[list[int]]:
        subset.check(self.top_k)
        most = self.top_k * self.pool_multiplier
        found = subset.top(self.neighbours)
        barred = found[:, : self.skip_ranks] if self.skip_ranks else None
        grouping = Grouping(subset, self.top_k, self, advance, barred, self.min_similarity)
        for anchor in range(len(subset.queries)):
            if grouping.free[anchor]:
                rows, near = grouping.owners([anchor], found[anchor], most)
                if self.safest_first and not subset.classification:
                    rows = rows[np.argsort(near, kind="stable")]
                grouping.start(anchor, rows)
        return grouping.finish()


@dataclass(frozen=True, kw_only=True)
class SaHa(_Walk):
    """SaHa (arXiv 2508.00955) without its false negatives, in clusters of equal size.

    As in the paper, the least similar of an anchor's K*m owners come first, and a classification subset keeps the
    candidates' order. Other than in the paper, known positives never meet (`Apart`), every row is in at most one
    cluster, and there is no second phase: `Grouping` completes and merges what is not full.
    """

    safest_first = True


@dataclass(frozen=True, kw_only=True)
class TopK(_Walk):
    """Owners of each anchor's top candidates, the hardest first (top-k mining, as in ANCE, arXiv 2007.00808)."""

    safest_first = False


def _check_pool(top_k: int, pool_multiplier: int) -> None:
    if top_k < 1 or pool_multiplier < 1:
        raise UserError(f"mining.top_k and pool_multiplier are at least 1; got {top_k} and {pool_multiplier}")
