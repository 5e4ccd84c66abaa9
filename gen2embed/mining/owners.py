"""The queries that own a candidate, and their similarity to an anchor's."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int, Shaped


class GroupIndex:
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

    rows, places: owners as `GroupIndex.of` gives them. ids: an owner whose id was chosen already is passed over.
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
