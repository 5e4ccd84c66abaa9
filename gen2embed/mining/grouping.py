"""How rows become clusters of equal size that hold no known false negative.

    1. A miner starts clusters: an anchor and, in the miner's order, rows that may meet the anchor and each other.
    2. Clusters that are not full are completed with the nearest unused owners: unused rows, by the similarity of their
       positive to the anchor's query.
    3. The clusters that are still not full and the unused rows, r rows together, are merged: the r // size largest
       clusters stay; the others are dissolved and complete them, again the nearest first.
    4. A cluster that no remaining row may join is done, though smaller. Step 3 repeats with the remaining rows until
       they are fewer than a cluster. Those, and rows that may meet no other, are in no cluster.

size is K + 1, or the number of distinct positives where that is less: two labels make clusters of two. Every row is in
at most one cluster. Ties go to the lower index.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int

from gen2embed.mining.base import Subset
from gen2embed.mining.filters import FalseNegativeMask, Filters
from gen2embed.mining.owners import GroupIndex, nearest_owners
from gen2embed.search.exact import nearest
from gen2embed.types import Advance, no_progress


class Grouping:
    """Builds the clusters of a subset: `start` them one by one, then `finish`.

    Args:
        subset: The rows.
        top_k: K. A full cluster has K + 1 rows, or as many as there are distinct positives.
        filters: Which rows may not meet, beyond the known positives.
        advance: Called with the number of rows that join clusters, and at the end with those that are in none.
        skipped: Candidates whose owners each anchor does not take.
        min_similarity: How similar, at least, an owner's positive is to the anchor's query.

    Attributes:
        free: Which rows are in no cluster yet and may be in one.
    """

    def __init__(
        self,
        subset: Subset,
        top_k: int,
        filters: Filters,
        advance: Advance = no_progress,
        skipped: Int[np.ndarray, "n r"] | None = None,
        min_similarity: float | None = None,
    ) -> None:
        self.subset, self.skipped, self.min_similarity = subset, skipped, min_similarity
        self.mask = FalseNegativeMask(subset, filters)
        self.free: Bool[np.ndarray, " n"] = filters.admitted(subset)
        self.owners_of = GroupIndex(subset.positive, len(subset.candidates))
        self.size = max(2, min(top_k + 1, len(np.unique(subset.positive[self.free]))))
        self.clusters: list[list[int]] = []
        self.advance, self._used, self._advanced = advance, 0, 0

    def owners(
        self, members: list[int], pool: Int[np.ndarray, " p"], limit: int
    ) -> tuple[Int[np.ndarray, " k"], Float[np.ndarray, " k"]]:
        """Return rows that may join a cluster, and the similarity of their queries to the anchor's.

        For each of the first `limit` candidates that have a free owner who may meet all members, it is the one most
        similar to the anchor.

        Args:
            members: The rows of the cluster, the anchor first.
            pool: Candidates, most similar first.
            limit: How many candidates count.
        """
        anchor = members[0]
        if self.skipped is not None:
            pool = pool[~np.isin(pool, self.skipped[anchor])]
        if self.min_similarity is not None:
            pool = pool[self.subset.candidates[pool] @ self.subset.queries[anchor] >= self.min_similarity]
        rows, walked = self.owners_of.gather(pool)
        fits = self.free[rows]
        fits[fits] = ~self.mask(np.array(members), rows[fits]).any(axis=0)
        return nearest_owners(self.subset.queries, anchor, rows[fits], walked[fits], limit)

    def start(self, anchor: int, rows: Int[np.ndarray, " r"]) -> None:
        """Make a cluster of a free anchor and those of `rows`, in order, that may meet; none if no row may."""
        members = [anchor]
        self._join(members, rows[~self.mask(np.array(members), rows)[0]])
        if len(members) > 1:
            self._use(members[:1])
            self.clusters.append(members)

    def finish(self) -> list[list[int]]:
        """Return all clusters after steps 2 to 4, the full ones first."""
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
        self.advance(len(self.free) - self._advanced)
        return full + smaller

    def _use(self, rows: list[int]) -> None:
        """Mark rows as used. A row of a dissolved cluster is used again and advances the progress once."""
        self.free[rows] = False
        self._used += len(rows)
        if self._used > self._advanced:
            self.advance(self._used - self._advanced)
            self._advanced = self._used

    def _join(self, members: list[int], rows: Int[np.ndarray, " r"]) -> None:
        """Add rows that may meet each other, in order, until the cluster is full; all may meet the members."""
        barred = np.zeros(len(rows), bool)
        apart = self.mask(rows, rows)
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
        """Fill clusters with free rows, the nearest first, until they are full or no free row may join."""
        pool = 4 * self.size
        waiting = clusters
        while waiting := [members for members in waiting if len(members) < self.size]:
            left = self.free.sum()
            available = np.unique(self.subset.positive[self.free])
            if not left:
                return
            anchors = self.subset.queries[[members[0] for members in waiting]]
            pools = available[nearest(anchors, self.subset.candidates[available], pool)]
            for members, candidates in zip(waiting, pools, strict=True):
                rows, _ = self.owners(members, candidates, len(candidates))
                self._join(members, rows)
            if self.free.sum() == left:
                if pool >= len(available):
                    return
                pool *= 4
