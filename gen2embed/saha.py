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
from jaxtyping import Float, Int

from gen2embed.search import nearest
from gen2embed.types import UserError


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
    _check(queries, candidates, positive, top_k, pool_multiplier, query_ids)
    positive = np.asarray(positive)
    ids = np.arange(len(queries)) if query_ids is None else np.asarray(query_ids)
    pool = 2 * top_k * pool_multiplier
    found = nearest(queries, candidates, pool) if found is None else found
    order = np.argsort(positive, kind="stable")
    owners_of = np.split(order, np.searchsorted(positive[order], np.arange(1, len(candidates))))

    def cluster(anchor: int, taken: np.ndarray, limit: int) -> list[int]:
        """The anchor and its owners, by steps 1 to 3."""
        own = set(positive[ids == ids[anchor]].tolist())
        owners: list[int] = []
        for candidate in found[anchor]:
            if candidate in own:
                continue
            free = [row for row in owners_of[candidate] if not taken[row] and ids[row] not in ids[owners]]
            if free:
                owners.append(free[int(np.argmax(queries[free] @ queries[anchor]))])
            if len(owners) == limit:
                break
        if owners and not classification:
            owners = [owners[index] for index in np.argsort(queries[owners] @ queries[anchor], kind="stable")]
        return [anchor, *map(int, owners[:top_k])]

    clusters: list[list[int]] = []
    used = np.zeros(len(queries), bool)
    for anchor in range(len(queries)):
        if not used[anchor] and len(members := cluster(anchor, used, top_k * pool_multiplier)) > 1:
            clusters.append(members)
            used[members] = True
    reused = np.zeros(len(queries), bool)
    for anchor in map(int, np.flatnonzero(~used)):
        if not reused[anchor] and len(members := cluster(anchor, reused, pool)) > 1:
            clusters.append(members)
            reused[members] = True
    return clusters


def _check(
    queries: np.ndarray,
    candidates: np.ndarray,
    positive: Sequence[int] | np.ndarray,
    top_k: int,
    pool_multiplier: int,
    query_ids: Sequence[int] | np.ndarray | None,
) -> None:
    """Raise `UserError` for what cannot be mined."""
    if top_k < 1 or pool_multiplier < 1:
        raise UserError(f"top_k and pool_multiplier are at least 1; got {top_k} and {pool_multiplier}")
    lengths = {"queries": len(queries), "positive": len(positive)}
    if query_ids is not None:
        lengths["query_ids"] = len(query_ids)
    if len(set(lengths.values())) > 1:
        raise UserError(f"as many of each are needed; got {', '.join(f'{n} {name}' for name, n in lengths.items())}")
    if top_k >= len(queries):
        most = len(queries) - 1
        raise UserError(f"top_k={top_k} is larger than the data: {len(queries)} rows have at most {most} owners")
    for name, vectors in (("queries", queries), ("candidates", candidates)):
        if not np.isfinite(vectors).all():
            raise UserError(f"{name} hold values that are not finite")
    if len(positive) and not 0 <= np.min(positive) <= np.max(positive) < len(candidates):
        raise UserError(f"positive holds indices outside of the {len(candidates)} candidates")
