"""How rows become clusters of equal size that hold no known false negative.

    1. A miner starts clusters: an anchor and, in the miner's order, rows that may meet the anchor and each other.
    2. Clusters that are not full are completed with the nearest unused owners: unused rows by the similarity of their
       positive to the anchor query.
    3. What is still not full is merged: of r such rows, unused ones among them, the r // size largest clusters are
       kept; the others are dissolved and complete them, again the nearest first.
    4. A cluster that no row left over may join is done, though smaller. Step 3 repeats with the rows that are left
       until they are fewer than a cluster. Those, and rows that may meet no other, are in no cluster.

size is K + 1, or the number of distinct positives where that is less: two labels make clusters of two. Every row is in
at most one cluster. Ties go to the lower index.
"""

from __future__ import annotations

import numpy as np

from gen2embed.mining.base import Subset
from gen2embed.mining.filters import FalseNegativeMask, Filters
from gen2embed.mining.owners import GroupIndex, nearest_owners
from gen2embed.search.exact import nearest
from gen2embed.types import Advance, unseen


class Grouping:
    """The clusters of a subset as they come about.

    advance: is told of rows as they come into clusters, and at the end of those that are in none.
    barred: (n, r) candidates whose owners each anchor does not take. floor: how similar, at least, an owner's positive
    is to the anchor query.
    """

    def __init__(
        self,
        subset: Subset,
        top_k: int,
        filters: Filters,
        advance: Advance = unseen,
        barred: np.ndarray | None = None,
        floor: float | None = None,
    ) -> None:
        self.subset, self.barred, self.floor = subset, barred, floor
        self.apart = FalseNegativeMask(subset, filters)
        self.free = filters.admitted(subset)
        self.owners_of = GroupIndex(subset.positive, len(subset.candidates))
        self.size = max(2, min(top_k + 1, len(np.unique(subset.positive[self.free]))))
        self.clusters: list[list[int]] = []
        self.advance, self._used, self._told = advance, 0, 0

    def owners(self, members: list[int], pool: np.ndarray, limit: int) -> tuple[np.ndarray, np.ndarray]:
        """Unused rows that may join, one for each of the first `limit` candidates of `pool` that have one: the most
        similar to the anchor query; and that similarity.
        """
        anchor = members[0]
        if self.barred is not None:
            pool = pool[~np.isin(pool, self.barred[anchor])]
        if self.floor is not None:
            pool = pool[self.subset.candidates[pool] @ self.subset.queries[anchor] >= self.floor]
        rows, places = self.owners_of.of(pool)
        fits = self.free[rows]
        fits[fits] = ~self.apart(np.array(members), rows[fits]).any(axis=0)
        return nearest_owners(self.subset.queries, anchor, rows[fits], places[fits], limit)

    def start(self, anchor: int, rows: np.ndarray) -> None:
        """A cluster of an unused anchor and those of `rows`, in order, that fit; none if none does."""
        members = [anchor]
        self._join(members, rows[~self.apart(np.array(members), rows)[0]])
        if len(members) > 1:
            self._use(members[:1])
            self.clusters.append(members)

    def finish(self) -> list[list[int]]:
        """Steps 2 to 4: all clusters, the full ones first."""
        self._complete(self.clusters)
        full = [members for members in self.clusters if len(members) == self.size]
        rest = [members for members in self.clusters if len(members) < self.size]
        rest += ([row] for row in np.flatnonzero(self.free).tolist())
        smaller = []
        while kept := sum(map(len, rest)) // self.size:
            rest.sort(key=lambda members: (-len(members), members[0]))
            for number, members in enumerate(rest):
                self.free[members] = number >= kept
            self._used = int(np.count_nonzero(~self.free))
            self._complete(rest[:kept])
            for members in rest[:kept]:
                if len(members) == self.size:
                    full.append(members)
                elif len(members) > 1:
                    smaller.append(members)
            rest = [[row] for row in np.flatnonzero(self.free).tolist()]
        self.advance(len(self.free) - self._told)
        return full + smaller

    def _use(self, rows: list[int]) -> None:
        """Rows are free no more. A row of a dissolved cluster comes into another, and is not told again."""
        self.free[rows] = False
        self._used += len(rows)
        if self._used > self._told:
            self.advance(self._used - self._told)
            self._told = self._used

    def _join(self, members: list[int], rows: np.ndarray) -> None:
        """Add those of `rows`, which all may meet the members, that may meet each other, until the cluster is full."""
        barred = np.zeros(len(rows), bool)
        apart = self.apart(rows, rows)
        joined: list[int] = []
        for index, row in enumerate(rows.tolist()):
            if len(members) + len(joined) == self.size:
                break
            if not barred[index]:
                joined.append(row)
                barred |= apart[index]
        self._use(joined)
        members += joined

    def _complete(self, clusters: list[list[int]]) -> None:
        """Fill clusters with unused rows, the nearest first, until they are full or no unused row may join."""
        pool = 4 * self.size
        waiting = clusters
        while waiting := [members for members in waiting if len(members) < self.size]:
            left = self.free.sum()
            available = np.unique(self.subset.positive[self.free])
            if not left:
                return
            anchors = self.subset.queries[[members[0] for members in waiting]]
            found = available[nearest(anchors, self.subset.candidates[available], pool)]
            for members, near in zip(waiting, found, strict=True):
                rows, _ = self.owners(members, near, len(near))
                self._join(members, rows)
            if self.free.sum() == left:
                if pool >= len(available):
                    return
                pool *= 4
