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

import numpy as np
from jaxtyping import Float, Int, Shaped

from gen2embed.search.exact import check_vectors, nearest
from gen2embed.types import Advance, UserError, unseen


class Lists:
    """The rows of each label, ascending, in one array: those of label g are `rows[starts[g] : starts[g + 1]]`."""

    def __init__(self, labels: Int[np.ndarray, " n"], count: int) -> None:
        self.rows = np.argsort(labels, kind="stable")
        self.starts = np.searchsorted(labels[self.rows], np.arange(count + 1))

    def __getitem__(self, label: int) -> Int[np.ndarray, " r"]:
        return self.rows[self.starts[label] : self.starts[label + 1]]

    def of(self, labels: Int[np.ndarray, " k"]) -> tuple[Int[np.ndarray, " r"], Int[np.ndarray, " r"]]:
        """The rows of several labels, one label after the other, and which of them each row belongs to."""
        first = self.starts[labels]
        counts = self.starts[labels + 1] - first
        ends = counts.cumsum()
        total = int(ends[-1]) if len(ends) else 0
        return self.rows[np.arange(total) + (first - ends + counts).repeat(counts)], np.arange(len(labels)).repeat(
            counts
        )


def similarity(queries: Float[np.ndarray, "n d"], anchor: int, rows: Int[np.ndarray, " r"]) -> Float[np.ndarray, " r"]:
    """Of the queries of rows to the anchor's; equal queries tie exactly, which a matrix product does not promise."""
    return np.einsum("rd,d->r", queries[rows], queries[anchor])


def nearest_owners(
    queries: Float[np.ndarray, "n d"],
    anchor: int,
    rows: Int[np.ndarray, " r"],
    places: Int[np.ndarray, " r"],
    limit: int,
    ids: Shaped[np.ndarray, " n"] | None = None,
) -> tuple[Int[np.ndarray, " k"], Float[np.ndarray, " k"]]:
    """One owner of each of the first `limit` candidates: the most similar to the anchor query; and how similar it is.

    rows, places: owners as `Lists.of` gives them. ids: an owner whose id was chosen already is passed over.
    """
    if not len(rows):
        return rows, np.empty(0)
    if ids is None:
        ordinal = np.concatenate(([True], places[1:] != places[:-1])).cumsum()
        kept = int(ordinal.searchsorted(limit, "right"))
        rows, places = rows[:kept], places[:kept]
    near = similarity(queries, anchor, rows)
    if ids is None:
        if ordinal[kept - 1] == kept:  # every candidate has one owner
            return rows, near
        order = np.lexsort((-near, places))
        chosen = order[np.concatenate(([True], np.diff(places[order]) != 0))]
        return rows[chosen], near[chosen]
    found: list[int] = []
    seen: set[int] = set()
    served = -1
    for index in np.lexsort((-near, places)).tolist():
        if places[index] != served and ids[rows[index]] not in seen and len(found) < limit:
            found.append(index)
            seen.add(ids[rows[index]])
            served = places[index]
    return rows[found], near[found]


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
    owners = Lists(positive, int(max(found.max(), positive.max())) + 1)
    _, ids = np.unique(np.arange(len(queries)) if query_ids is None else query_ids, return_inverse=True)
    rows_of_query = Lists(ids, len(ids))
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


def check_rows(
    queries: np.ndarray,
    candidates: np.ndarray,
    positive: Sequence[int] | np.ndarray,
    query_ids: Sequence[int] | np.ndarray | None,
    top_k: int,
) -> None:
    """Raise `UserError` for rows that cannot be mined. What vectors hold is checked where they are searched."""
    lengths = {"queries": len(queries), "positive": len(positive)}
    if query_ids is not None:
        lengths["query_ids"] = len(query_ids)
    if len(set(lengths.values())) > 1:
        raise UserError(f"as many of each are needed; got {', '.join(f'{n} {name}' for name, n in lengths.items())}")
    if len(queries) == 1:
        raise UserError("one row cannot be mined: a cluster needs two")
    if top_k >= len(queries):
        most = len(queries) - 1
        raise UserError(f"top_k={top_k} is larger than the data: {len(queries)} rows have at most {most} owners")
    if len(positive) and not 0 <= np.min(positive) <= np.max(positive) < len(candidates):
        raise UserError(f"positive holds indices outside of the {len(candidates)} candidates")
