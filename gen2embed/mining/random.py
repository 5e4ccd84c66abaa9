"""Random clusters of one subset."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gen2embed.mining.base import Subset
from gen2embed.types import Advance, no_progress
from gen2embed.utils.errors import UserError


@dataclass(frozen=True)
class Random:
    """K + 1 rows of one subset at random: homogeneous batches without mining. The last cluster may be smaller.

    Args:
        top_k: K. A full cluster has K + 1 rows.
        seed: The seed of the order.
    """

    embeds: ClassVar[bool] = False
    top_k: int = 15
    seed: int = 0

    def __post_init__(self) -> None:
        if self.top_k < 1:
            raise UserError(f"mining.top_k is at least 1; got {self.top_k}")

    @property
    def neighbours(self) -> int:
        return 0

    def mine(self, subset: Subset, advance: Advance = no_progress) -> list[list[int]]:
        rows = len(subset.queries)
        advance(rows)
        order = np.random.default_rng(self.seed).permutation(rows).tolist()
        return [order[start : start + self.top_k + 1] for start in range(0, rows, self.top_k + 1)]
