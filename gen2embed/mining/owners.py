"""The owners of a candidate: the rows whose positive it is."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int, Shaped


class GroupIndex:
    """The rows of each label, in one array (compressed sparse rows, CSR).

    The rows of label g, ascending, are `rows[starts[g] : starts[g + 1]]`. Labels [2, 0, 2, 1] of four rows give
    rows = [1, 3, 0, 2] and starts = [0, 1, 2, 4].

    Args:
        labels: The label of each row, from 0 to count - 1.
        count: The number of labels; some may have no row.
    """

    def __init__(self, labels: Int[np.ndarray, " n"], count: int) -> None:
        self.rows = np.argsort(labels, kind="stable")
        self.starts = np.searchsorted(labels[self.rows], np.arange(count + 1))

    def __getitem__(self, label: int) -> Int[np.ndarray, " r"]:
        return self.rows[self.starts[label] : self.starts[label + 1]]

    def gather(self, labels: Int[np.ndarray, " k"]) -> tuple[Int[np.ndarray, " r"], Int[np.ndarray, " r"]]:
        """Return the rows of several labels, one label after the other, and for each row the index of its label.

        In the example of the class, `gather([2, 1])` returns rows [0, 2, 3] and label indices [0, 0, 1]:

            first  = [2, 1]     where the rows of labels 2 and 1 start in `self.rows`
            counts = [2, 1]     how many there are
            ends   = [2, 3]     where they end in the result, so they start there at ends - counts = [0, 2]
            shifts = [2, -1]    first - (ends - counts): from a place in the result to one in `self.rows`
            places = [0, 1, 2] + [2, 2, -1] = [2, 3, 1]
        """
        first = self.starts[labels]
        counts = self.starts[labels + 1] - first
        ends = counts.cumsum()
        shifts = first - (ends - counts)
        total = int(ends[-1]) if len(ends) else 0
        places = np.arange(total) + shifts.repeat(counts)
        return self.rows[places], np.arange(len(labels)).repeat(counts)


def similarity_to_anchor(
    queries: Float[np.ndarray, "n d"], anchor: int, rows: Int[np.ndarray, " r"]
) -> Float[np.ndarray, " r"]:
    """Return each row's similarity to the anchor. Equal queries tie exactly, as they may not in a matrix product."""
    return np.einsum("rd,d->r", queries[rows], queries[anchor])


def nearest_owners(
    queries: Float[np.ndarray, "n d"],
    anchor: int,
    rows: Int[np.ndarray, " r"],
    candidates: Int[np.ndarray, " r"],
    limit: int,
    query_ids: Shaped[np.ndarray, " n"] | None = None,
) -> tuple[Int[np.ndarray, " k"], Float[np.ndarray, " k"]]:
    """Return, for each of the first `limit` candidates, the owner most similar to the anchor, and its similarity.

    Args:
        queries: Unit vectors of all rows.
        anchor: The row that owners are compared with.
        rows: Owners of the candidates, one candidate after the other, as `GroupIndex.gather` returns them.
        candidates: The candidate of each owner, as its index in the walk, ascending.
        limit: How many candidates count, of those that have an owner.
        query_ids: Equal for rows with the same query, of which one is chosen at most; None if all queries differ.
    """
    if not len(rows):
        return rows, np.empty(0)
    if query_ids is not None:
        return _nearest_of_distinct_queries(queries, anchor, rows, candidates, limit, query_ids)
    ordinal = _is_first(candidates).cumsum()  # 1, 1, 2, 3, 3: counts the candidates that have owners
    kept = int(ordinal.searchsorted(limit, "right"))
    rows, candidates = rows[:kept], candidates[:kept]
    similarities = similarity_to_anchor(queries, anchor, rows)
    if ordinal[kept - 1] == kept:  # every candidate has one owner
        return rows, similarities
    order = np.lexsort((-similarities, candidates))
    chosen = order[_is_first(candidates[order])]
    return rows[chosen], similarities[chosen]


def _nearest_of_distinct_queries(
    queries: Float[np.ndarray, "n d"],
    anchor: int,
    rows: Int[np.ndarray, " r"],
    candidates: Int[np.ndarray, " r"],
    limit: int,
    query_ids: Shaped[np.ndarray, " n"],
) -> tuple[Int[np.ndarray, " k"], Float[np.ndarray, " k"]]:
    """Do as `nearest_owners` does, candidate by candidate, since each choice bars its query from later choices."""
    similarities = similarity_to_anchor(queries, anchor, rows)
    chosen: list[int] = []
    chosen_ids: set[int] = set()
    served = -1  # the candidate whose owner was chosen last
    for index in np.lexsort((-similarities, candidates)).tolist():
        query_id = query_ids[rows[index]]
        if candidates[index] != served and query_id not in chosen_ids and len(chosen) < limit:
            chosen.append(index)
            chosen_ids.add(query_id)
            served = candidates[index]
    return rows[chosen], similarities[chosen]


def _is_first(values: Int[np.ndarray, " r"]) -> Shaped[np.ndarray, " r"]:
    """Return where a run of equal values begins."""
    return np.concatenate(([True], values[1:] != values[:-1]))
