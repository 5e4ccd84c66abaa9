"""Self-aware hard negative sampling (SaHa): clusters of training pairs that are each other's hard negatives.

The algorithm of arXiv 2508.00955, section 3.3, on zero-shot embeddings of the queries and the distinct candidates of
one subset. K is `top_k`, m is `pool_multiplier`. For an anchor, a row of the subset:

    1. Take the 2*K*m candidates nearest to the anchor's query, without the positives of that query.
    2. Walk them from most to least similar. A candidate stands for its owners, the rows whose positive it is: take the
       free owner whose query is most similar to the anchor's, if any is free. Stop after K*m owners.
    3. Sort the owners by the similarity of their query to the anchor's, ascending, and take the first K: the least
       similar are the least likely to be false negatives. A classification subset keeps the order of the walk.
    4. The cluster is the anchor and its owners. An anchor without owners gets none.

With K = 15 and m = 3, step 1 takes 90 candidates, step 2 stops after 45 owners, step 3 keeps 15 of them, and a full
cluster has 16 rows.

In the first phase each row that no cluster holds yet is an anchor, in the order of the rows; all rows of its cluster
are used, and an owner is free until it is used. In the second phase the rows still unused are anchors: an owner is
free until this phase has used it, and a walk takes up to 2*K*m owners.

Ties go to the lower index, so that equal inputs have equal clusters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Bool, Float, Int

from gen2embed.mining.base import Subset, check_rows
from gen2embed.mining.filters import Filters
from gen2embed.mining.grouping import Grouping
from gen2embed.mining.owners import GroupIndex, nearest_owners
from gen2embed.search.exact import check_vectors, nearest
from gen2embed.types import Advance, no_progress
from gen2embed.utils.errors import UserError


def mine_clusters(
    queries: Float[np.ndarray, "n d"],
    candidates: Float[np.ndarray, "m d"],
    positive: Int[np.ndarray, " n"],
    top_k: int,
    pool_multiplier: int,
    classification: bool = False,
    query_ids: Sequence[int] | Int[np.ndarray, " n"] | None = None,
    neighbours: Int[np.ndarray, "n k"] | None = None,
    advance: Advance = no_progress,
) -> list[list[int]]:
    """Return clusters of rows, the anchor first.

    Args:
        queries: Unit vectors of the rows' queries.
        candidates: Unit vectors of the distinct candidates.
        positive: The candidate that each row is paired with.
        top_k: K. A full cluster has K + 1 rows.
        pool_multiplier: m. A walk takes K*m owners, to choose K from.
        classification: Whether the subset is classification.
        query_ids: Equal for rows that are one query with several positives, which never meet in a cluster. None: all
            queries are different.
        neighbours: The 2*K*m candidates nearest to each query, most similar first, or all there are. None: they are
            searched.
        advance: Called with the number of rows that are done, as they are.

    Raises:
        UserError: The arrays do not fit each other, hold values that are not finite, or have too few rows.
    """
    if top_k < 1 or pool_multiplier < 1:
        raise UserError(f"top_k and pool_multiplier are at least 1; got {top_k} and {pool_multiplier}")
    check_rows(queries, candidates, positive, query_ids, top_k)
    if neighbours is None:
        neighbours = nearest(queries, candidates, 2 * top_k * pool_multiplier)
    else:
        check_vectors(queries, "queries")
    positive, count = np.asarray(positive), len(queries)
    owners_of = GroupIndex(positive, len(candidates))
    _, ids = np.unique(np.arange(count) if query_ids is None else query_ids, return_inverse=True)
    rows_of_query = GroupIndex(ids, count)
    recurring_ids = ids if ids.max() + 1 < count else None  # None: every query has one positive

    def cluster_of(anchor: int, used: Bool[np.ndarray, " n"], limit: int) -> list[int]:
        # 1. the pool
        pool, positives = neighbours[anchor], positive[rows_of_query[ids[anchor]]]
        pool = pool[pool != positives[0]] if len(positives) == 1 else pool[~np.isin(pool, positives)]
        # 2. the walk
        rows, pool_indices = owners_of.gather(pool)  # all owners, and the candidate in the pool that each one has
        free = ~used[rows]
        owners, similarities = nearest_owners(queries, anchor, rows[free], pool_indices[free], limit, recurring_ids)
        # 3. the least similar owners
        if not classification:
            owners = owners[np.argsort(similarities, kind="stable")]
        # 4. the cluster
        return [anchor, *owners[:top_k].tolist()]

    clusters: list[list[int]] = []
    used = np.zeros(count, bool)
    for anchor in range(count):  # first phase
        if not used[anchor] and len(members := cluster_of(anchor, used, top_k * pool_multiplier)) > 1:
            clusters.append(members)
            used[members] = True
            advance(len(members))
    reused = np.zeros(count, bool)
    for anchor in np.flatnonzero(~used).tolist():  # second phase
        if not reused[anchor] and len(members := cluster_of(anchor, reused, 2 * top_k * pool_multiplier)) > 1:
            clusters.append(members)
            reused[members] = True
        advance(1)
    return clusters


# --- the miners -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SaHaPaper:
    """SaHa as the paper has it: `mine_clusters`.

    Args:
        top_k: K. A full cluster has K + 1 rows.
        pool_multiplier: m. An anchor looks at 2*K*m candidates.
    """

    embeds: ClassVar[bool] = True
    top_k: int = 15
    pool_multiplier: int = 3

    def __post_init__(self) -> None:
        _check_pool(self.top_k, self.pool_multiplier)

    @property
    def neighbours(self) -> int:
        return 2 * self.top_k * self.pool_multiplier

    def mine(self, subset: Subset, advance: Advance = no_progress) -> list[list[int]]:
        return mine_clusters(
            subset.queries, subset.candidates, subset.positive, self.top_k, self.pool_multiplier,
            subset.classification, subset.query_ids, subset.top(self.neighbours), advance,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _OwnerMiner(Filters):
    """Begins a cluster with each row that is in none yet and owners of its nearest candidates; `Grouping` completes it.

    Args:
        top_k: K. A full cluster has K + 1 rows.
        pool_multiplier: m. An anchor looks at 2*K*m candidates and takes at most K*m owners, to choose K from.
        skip_ranks: How many of the nearest candidates to pass over, as they may be false negatives (`range_min` of
            sentence-transformers, which counts the anchor's own positive as a rank).
        min_similarity: How similar, at least, an owner's positive is to the anchor's query (`min_score` there).

    Attributes:
        least_similar_first: Whether a cluster takes the owners least similar to its anchor first, or those of the
            nearest candidates.
    """

    embeds: ClassVar[bool] = True
    least_similar_first: ClassVar[bool]
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

    def mine(self, subset: Subset, advance: Advance = no_progress) -> list[list[int]]:
        subset.check(self.top_k)
        pools = subset.top(self.neighbours)
        skipped = pools[:, : self.skip_ranks] if self.skip_ranks else None
        grouping = Grouping(subset, self.top_k, self, advance, skipped, self.min_similarity)
        for anchor in range(len(subset.queries)):
            if grouping.free[anchor]:
                rows, similarities = grouping.owners([anchor], pools[anchor], self.top_k * self.pool_multiplier)
                if self.least_similar_first and not subset.classification:
                    rows = rows[np.argsort(similarities, kind="stable")]
                grouping.start(anchor, rows)
        return grouping.finish()


@dataclass(frozen=True, kw_only=True)
class SaHa(_OwnerMiner):
    """SaHa without known false negatives, in clusters of equal size.

    As in the paper, the least similar of an anchor's K*m owners come first, and a classification subset keeps the
    candidates' order. Unlike in the paper, known positives never meet (`FalseNegativeMask`), every row is in one
    cluster at most, and there is no second phase: `Grouping` completes and merges clusters that are not full.
    """

    least_similar_first = True


@dataclass(frozen=True, kw_only=True)
class TopK(_OwnerMiner):
    """Owners of each anchor's nearest candidates, the hardest first (top-k mining, as in ANCE, arXiv 2007.00808)."""

    least_similar_first = False


def _check_pool(top_k: int, pool_multiplier: int) -> None:
    if top_k < 1 or pool_multiplier < 1:
        raise UserError(f"mining.top_k and pool_multiplier are at least 1; got {top_k} and {pool_multiplier}")
