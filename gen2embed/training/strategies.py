"""Lightning's strategies for several ranks, and how the ranks of each train together."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from lightning import Trainer
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy, Strategy

from gen2embed.training.sync import OneRank, Replicas, Sync
from gen2embed.utils.compat import copy_to_ranks
from gen2embed.utils.errors import UserError
from gen2embed.utils.log import log
from gen2embed.utils.rank_group import ALONE, RankGroup


class RanksStrategy(DDPStrategy):
    """Lightning's launcher and process group, where the failure of one rank ends all, and every wait has a timeout.

    Args:
        timeout_seconds: How long a rank waits for another one, in a step or for what rank 0 mines.
        options: Further arguments of Lightning's DDP strategy.
    """

    def __init__(self, timeout_seconds: float, **options: Any) -> None:
        if timeout_seconds <= 0:
            raise UserError(f"trainer.strategy.timeout_seconds is above 0; got {timeout_seconds}")
        super().__init__(timeout=timedelta(seconds=timeout_seconds), **options)
        self.timeout_seconds = timeout_seconds

    def sync(self) -> Sync:
        """Return how its ranks train together; raises `UserError` if they cannot."""
        raise NotImplementedError

    def setup_distributed(self) -> None:
        try:
            super().setup_distributed()
        except dist.DistStoreError as error:
            raise UserError(
                f"some ranks had not started after {self.timeout_seconds:g} seconds; read their logs, or raise "
                "trainer.strategy.timeout_seconds"
            ) from error

    def on_exception(self, exception: BaseException) -> None:
        """End the ranks that this one started, which would wait for it until their timeout, and log which died."""
        super().on_exception(exception)
        for rank, process in enumerate(self.launcher.procs, 1):  # type: ignore[union-attr]
            if (code := process.poll()) is not None and code < 0:
                log.error(
                    "rank %d was ended by %s, as the system does where memory is short",
                    rank,
                    signal.Signals(-code).name,
                )
        self.launcher.kill(signal.SIGKILL)  # type: ignore[union-attr]


class Replicated(RanksStrategy):
    """A copy of the model on every device.

    The copies are not wrapped in `DistributedDataParallel`, whose buckets would only take memory: `Replicas` adds the
    gradients up, once a step.
    """

    def __init__(self, timeout_seconds: float = 1800) -> None:
        super().__init__(timeout_seconds)

    def sync(self) -> Sync:
        return Replicas()

    def configure_ddp(self) -> None:
        copy_to_ranks(self.model)  # type: ignore[arg-type]


def sync_of(strategy: Strategy) -> Sync:
    """Return how the ranks of a trainer's strategy train together; raises `UserError` for any other strategy."""
    if isinstance(strategy, RanksStrategy):
        return strategy.sync()
    if isinstance(strategy, SingleDeviceStrategy):
        return OneRank()
    raise UserError(
        f"training cannot use {type(strategy).__name__}; choose strategy=ddp for several devices, else strategy=single"
    )


@contextmanager
def connect_ranks(trainer: Trainer) -> Iterator[RankGroup]:
    """Yield the trainer's ranks for work that Lightning does not run, such as mining.

    They are started, unless `torchrun` did, and connected. If this rank fails, those that it started end.
    """
    strategy = trainer.strategy
    if isinstance(strategy, SingleDeviceStrategy):
        yield ALONE
        return
    if not isinstance(strategy, Replicated):
        raise UserError(
            f"mining and evaluation cannot use {type(strategy).__name__}; choose strategy=ddp for several devices, "
            "else strategy=single"
        )
    assert strategy.launcher is not None
    try:
        strategy.launcher.launch(strategy.setup_environment, trainer=trainer)
        yield RankGroup(trainer.global_rank, trainer.world_size, strategy.barrier, strategy.timeout_seconds)
    except BaseException as error:
        strategy.on_exception(error)
        raise
    dist.destroy_process_group()
