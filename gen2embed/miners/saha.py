"""SaHa as a miner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gen2embed.miners.base import Subset
from gen2embed.saha import mine_clusters
from gen2embed.types import UserError


@dataclass(frozen=True)
class SaHaPaper:
    """The paper's algorithm, see `gen2embed.saha`. top_k: K; a full cluster has K + 1 pairs. pool_multiplier: m."""

    embeds: ClassVar[bool] = True
    top_k: int = 15
    pool_multiplier: int = 3

    def __post_init__(self) -> None:
        if self.top_k < 1 or self.pool_multiplier < 1:
            raise UserError(
                f"mining.top_k and pool_multiplier are at least 1; got {self.top_k} and {self.pool_multiplier}"
            )

    @property
    def neighbours(self) -> int:
        return 2 * self.top_k * self.pool_multiplier

    def mine(self, subset: Subset) -> list[list[int]]:
        arrays = (subset.queries, subset.candidates, subset.positive)
        return mine_clusters(
            *arrays, self.top_k, self.pool_multiplier, subset.classification, subset.query_ids, subset.nearest
        )
