"""What a miner is: a way to group the rows of a subset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np

from gen2embed.search.exact import nearest
from gen2embed.types import Advance, unseen
from gen2embed.utils.errors import UserError


@dataclass(frozen=True)
class Subset:
    """One subset in arrays: unit vectors of its n queries and m distinct candidates.

    positive: (n,) the candidate of each row. query_ids: (n,) equal for rows with the same query. nearest: (n, k) the
    candidates most similar to each query, most similar first, as many as the miner asks for or as there are; None
    searches them when they are asked for.
    teacher: (n,) another model's score of each pair; None if the data have none.
    """

    queries: np.ndarray
    candidates: np.ndarray
    positive: np.ndarray
    query_ids: np.ndarray
    classification: bool
    nearest: np.ndarray | None = None
    teacher: np.ndarray | None = None

    def check(self, top_k: int) -> None:
        """Raise `UserError` for rows that clusters of `top_k` + 1 cannot be made of."""
        check_rows(self.queries, self.candidates, self.positive, self.query_ids, top_k)

    def top(self, count: int) -> np.ndarray:
        """(n, k) the candidates most similar to each query, most similar first, `count` of them or all there are."""
        count = min(count, len(self.candidates))
        if self.nearest is None or count > self.nearest.shape[1]:  # more than the miner's `neighbours`
            return nearest(self.queries, self.candidates, count)
        return self.nearest[:, :count]


class Miner(Protocol):
    """A way to group the rows of a subset.

    embeds: whether it looks at embeddings at all. top_k: its largest cluster has one row more.
    neighbours: how many of the nearest candidates of each query it asks for.
    """

    embeds: ClassVar[bool]
    top_k: int

    @property
    def neighbours(self) -> int:
        """It may follow from other settings."""

    def mine(self, subset: Subset, advance: Advance = unseen) -> list[list[int]]:
        """Clusters of rows, the anchor first. advance: is told of each row of the subset once, when it is done with."""


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
