"""Self-aware hard negative sampling (SaHa): clusters of training pairs that are each other's hard negatives.

On zero-shot embeddings of the queries and the distinct candidates of one subset (arXiv 2508.00955, section 3.3):

    1. For each anchor query in order that is not used yet: the top 2*K*m candidates, less its own positive.
    2. Walk them from most to least similar; a candidate stands for its owners, the queries whose positive it is. Take
       the free owner most similar to the anchor query, if there is one; stop at K*m owners.
    3. Sort the owners by the similarity of their query to the anchor's, ascending, and take the first K: the least
       similar are the safest from being false negatives. A classification subset keeps the walk's order.
    4. The cluster is the anchor and the K owners; all of them are used now. An anchor without owners stays unused.
    5. Second phase, for the anchors still unused: again, but an owner is free unless taken in this phase, and up to
       2*K*m owners are walked.

Nothing here depends on the order of a set: ties go to the lower index.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float, Int

from gen2embed.mining.base import Subset, check_rows
from gen2embed.mining.filters import Filters
from gen2embed.mining.grouping import Grouping
from gen2embed.mining.owners import GroupIndex, nearest_owners
from gen2embed.search.exact import check_vectors, nearest
from gen2embed.types import Advance, unseen
from gen2embed.utils.errors import UserError


def mine_clusters(
    queries: Float[np.ndarray, "n d"],
    candidates: Float[np.ndarray, "m d"],
    positive: Int[np.ndarray, " n"],
    top_k: int,
    pool_multiplier: int,
    classification: bool = False,
    query_ids: Sequence[int] | Int[np.ndarray, " n"] | None = None,
    found: Int[np.ndarray, "n k"] | None = None,
) -> list[list[int]]:
    """Mine clusters of rows, the anchor first.

    queries, candidates: unit vectors. positive: the candidate that row i is paired with.
    top_k, pool_multiplier: K and m.
    query_ids: rows with one id are one query with several positives; None makes every row its own. Such rows never meet
        in a cluster.
    found: the 2*K*m nearest candidates of each query, or all there are; None searches them here.
    """
    if top_k < 1 or pool_multiplier < 1:
        raise UserError(f"top_k and pool_multiplier are at least 1; got {top_k} and {pool_multiplier}")
    check_rows(queries, candidates, positive, query_ids, top_k)
    if found is None:
        found = nearest(queries, candidates, 2 * top_k * pool_multiplier)
    else:
        check_vectors(queries, "queries")
    return group(found, queries, np.asarray(positive), top_k, pool_multiplier, classification, query_ids)


def group(
    found: Int[np.ndarray, "n p"],
    queries: Float[np.ndarray, "n d"],
    positive: Int[np.ndarray, " n"],
    top_k: int,
    pool_multiplier: int,
    classification: bool = False,
    query_ids: Sequence[int] | Int[np.ndarray, " n"] | None = None,
    advance: Advance = unseen,
) -> list[list[int]]:
    """`mine_clusters` after its search.

    found: the top candidates of each query, most similar first. advance: is told of rows that are used, or done with.
    """
    owners = GroupIndex(positive, int(max(found.max(), positive.max())) + 1)
    _, ids = np.unique(np.arange(len(queries)) if query_ids is None else query_ids, return_inverse=True)
    rows_of_query = GroupIndex(ids, len(ids))
    several = ids if ids.max() + 1 < len(ids) else None  # some query has several positives

    def cluster(anchor: int, taken: np.ndarray, limit: int) -> list[int]:
        """The anchor and its owners, by steps 1 to 3."""
        pool = found[anchor]
        own = positive[rows_of_query[ids[anchor]]]
        pool = pool[pool != own[0]] if len(own) == 1 else pool[~np.isin(pool, own)]
        rows, places = owners.of(pool)
        free = ~taken[rows]
        chosen, near = nearest_owners(queries, anchor, rows[free], places[free], limit, several)
        if not classification:
            chosen = chosen[np.argsort(near, kind="stable")]
        return [anchor, *chosen[:top_k].tolist()]

    clusters: list[list[int]] = []
    used = np.zeros(len(queries), bool)
    for anchor in range(len(queries)):
        if not used[anchor] and len(members := cluster(anchor, used, top_k * pool_multiplier)) > 1:
            clusters.append(members)
            used[members] = True
            advance(len(members))
    reused = np.zeros(len(queries), bool)
    for anchor in map(int, np.flatnonzero(~used)):
        if not reused[anchor] and len(members := cluster(anchor, reused, 2 * top_k * pool_multiplier)) > 1:
            clusters.append(members)
            reused[members] = True
        advance(1)
    return clusters


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
    candidates' order. Other than in the paper, known positives never meet (`FalseNegativeMask`), every row is in one
    cluster at most, and there is no second phase: `Grouping` completes and merges what is not full.
    """

    safest_first = True


@dataclass(frozen=True, kw_only=True)
class TopK(_Walk):
    """Owners of each anchor's top candidates, the hardest first (top-k mining, as in ANCE, arXiv 2007.00808)."""

    safest_first = False


def _check_pool(top_k: int, pool_multiplier: int) -> None:
    if top_k < 1 or pool_multiplier < 1:
        raise UserError(f"mining.top_k and pool_multiplier are at least 1; got {top_k} and {pool_multiplier}")
