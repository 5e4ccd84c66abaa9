"""What a miner is: a way to group the rows of a subset."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np


@dataclass(frozen=True)
class Subset:
    """One subset in arrays: unit vectors of its n queries and m distinct candidates.

    positive: (n,) the candidate of each row. query_ids: (n,) equal for rows with the same query.
    teacher: (n,) another model's score of each pair; None if the data have none.
    """

    queries: np.ndarray
    candidates: np.ndarray
    positive: np.ndarray
    query_ids: np.ndarray
    classification: bool
    teacher: np.ndarray | None = None


class Miner(Protocol):
    """A way to group the rows of a subset.

    embeds: whether it looks at embeddings at all. top_k: its largest cluster has one row more.
    """

    embeds: ClassVar[bool]
    top_k: int

    def mine(self, subset: Subset) -> list[list[int]]:
        """Clusters of rows, the anchor first."""
