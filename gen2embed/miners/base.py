"""What a miner is: a way to group the rows of a subset."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np


@dataclass(frozen=True)
class Subset:
    """One subset in arrays: unit vectors of its n queries and m distinct candidates.

    positive: (n,) the candidate of each row. query_ids: (n,) equal for rows with the same query. nearest: (n, k) the
    candidates most similar to each query, most similar first, as many as the miner asks for or as there are.
    """

    queries: np.ndarray
    candidates: np.ndarray
    positive: np.ndarray
    query_ids: np.ndarray
    classification: bool
    nearest: np.ndarray


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

    def mine(self, subset: Subset) -> list[list[int]]:
        """Clusters of rows, the anchor first."""
