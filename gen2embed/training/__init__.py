"""Train an embedder: the step, gradient caching, losses, batches of clusters, checkpoints and resumption.

It imports `evaluation`, `mining`, `model` and the folders below them.
"""

from typing import TYPE_CHECKING

from gen2embed.utils.lazy import lazy_exports

if TYPE_CHECKING:
    from gen2embed.training.batches import ClusterBatchSampler as ClusterBatchSampler
    from gen2embed.training.batches import RankBatchSampler as RankBatchSampler
    from gen2embed.training.callbacks import Validate as Validate
    from gen2embed.training.checkpoint import Checkpoints as Checkpoints
    from gen2embed.training.datamodule import PairDataModule as PairDataModule
    from gen2embed.training.datamodule import TrainingBatch as TrainingBatch
    from gen2embed.training.fit import prepare_fit as prepare_fit
    from gen2embed.training.fit import save_adapter as save_adapter
    from gen2embed.training.gradcache import backward_cached as backward_cached
    from gen2embed.training.losses import ContrastiveLoss as ContrastiveLoss
    from gen2embed.training.losses import ContrastiveTargets as ContrastiveTargets
    from gen2embed.training.losses import InfoNCE as InfoNCE
    from gen2embed.training.memory import StepMemory as StepMemory
    from gen2embed.training.module import ContrastiveModule as ContrastiveModule
    from gen2embed.training.plan import check_clusters as check_clusters
    from gen2embed.training.plan import copy_clusters as copy_clusters
    from gen2embed.training.plan import mine_clusters as mine_clusters
    from gen2embed.training.plan import plan_batches as plan_batches
    from gen2embed.training.resume import Resume as Resume
    from gen2embed.training.shortcuts import Shortcuts as Shortcuts
    from gen2embed.training.strategies import Replicated as Replicated
    from gen2embed.training.strategies import connect_ranks as connect_ranks
    from gen2embed.training.sync import Sync as Sync
    from gen2embed.training.zero import Zero as Zero
else:
    __getattr__, __dir__, __all__ = lazy_exports(
        __name__,
        {
            "Checkpoints": "checkpoint",
            "ClusterBatchSampler": "batches",
            "ContrastiveLoss": "losses",
            "ContrastiveModule": "module",
            "ContrastiveTargets": "losses",
            "InfoNCE": "losses",
            "PairDataModule": "datamodule",
            "RankBatchSampler": "batches",
            "Replicated": "strategies",
            "Resume": "resume",
            "Shortcuts": "shortcuts",
            "StepMemory": "memory",
            "Sync": "sync",
            "TrainingBatch": "datamodule",
            "Validate": "callbacks",
            "Zero": "zero",
            "backward_cached": "gradcache",
            "check_clusters": "plan",
            "connect_ranks": "strategies",
            "copy_clusters": "plan",
            "mine_clusters": "plan",
            "plan_batches": "plan",
            "prepare_fit": "fit",
            "save_adapter": "fit",
        },
    )
