"""Mine clusters of training pairs: SaHa, its paper's form, top-k, B3 and random, and the filters that they share.

It imports `model`, `encoding`, `search`, `data` and the folders below them.
"""

from typing import TYPE_CHECKING

from gen2embed.utils.lazy import lazy_exports

if TYPE_CHECKING:
    from gen2embed.mining.b3 import B3 as B3
    from gen2embed.mining.base import Miner as Miner
    from gen2embed.mining.clusters import Clusters as Clusters
    from gen2embed.mining.clusters import read_clusters as read_clusters
    from gen2embed.mining.clusters import write_clusters as write_clusters
    from gen2embed.mining.filters import FalseNegativeMask as FalseNegativeMask
    from gen2embed.mining.filters import Filters as Filters
    from gen2embed.mining.grouping import Grouping as Grouping
    from gen2embed.mining.mine import Mined as Mined
    from gen2embed.mining.mine import mine_pairs as mine_pairs
    from gen2embed.mining.owners import GroupIndex as GroupIndex
    from gen2embed.mining.random import Random as Random
    from gen2embed.mining.saha import SaHa as SaHa
    from gen2embed.mining.saha import SaHaPaper as SaHaPaper
    from gen2embed.mining.saha import TopK as TopK
    from gen2embed.mining.saha import mine_clusters as mine_clusters
    from gen2embed.mining.skipped import skipped_owners as skipped_owners
    from gen2embed.mining.skipped import write_skipped as write_skipped
else:
    __getattr__, __dir__, __all__ = lazy_exports(
        __name__,
        {
            "B3": "b3",
            "Clusters": "clusters",
            "FalseNegativeMask": "filters",
            "Filters": "filters",
            "GroupIndex": "owners",
            "Grouping": "grouping",
            "Mined": "mine",
            "Miner": "base",
            "Random": "random",
            "SaHa": "saha",
            "SaHaPaper": "saha",
            "TopK": "saha",
            "mine_clusters": "saha",
            "mine_pairs": "mine",
            "read_clusters": "clusters",
            "skipped_owners": "skipped",
            "write_clusters": "clusters",
            "write_skipped": "skipped",
        },
    )
