"""Private names of other libraries that we cannot do without, each with the version in which it was last seen.

A library may change these without notice, so that they stand here alone. Libraries are imported in the functions that
need them: importing this module costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning import Trainer
    from lightning.pytorch.loggers import WandbLogger
    from torch import nn
    from torch.optim.lr_scheduler import LambdaLR


def leave_signals(trainer: Trainer) -> None:
    """Keep the trainer from installing signal handlers (Lightning 2.6.6).

    Its handler of SIGTERM broadcasts between the ranks in the middle of whatever they do. `preemption` has one that
    waits for the end of a step, and the trainer has no option to install none.
    """
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]


def copy_to_ranks(module: nn.Module) -> None:
    """Give every rank the weights of rank 0 (Lightning 2.6.6), as its DDP strategy does without wrapping the module."""
    from lightning.pytorch.overrides.distributed import _sync_module_states

    _sync_module_states(module)


def wandb_run_id(logger: WandbLogger) -> str | None:
    """Return the id of the run that a logger was told to write to (Lightning 2.6.6); its `version` begins the run."""
    return logger._wandb_init.get("id")


def forget_trace(coordinator: Any) -> None:
    """Have DeepSpeed's stage 3 gather each module's weights when it runs (DeepSpeed 0.19.8).

    By default it records which modules a step runs, those of all its chunks, and searches what is left of the record
    whenever a module has run: that takes time that grows with the square of the number of chunks.
    """
    if not coordinator.is_invalid_trace():
        coordinator._invalidate_trace()


def set_rate_of_next_step(scheduler: LambdaLR) -> None:
    """Set the learning rate of the next step by this schedule (PyTorch 2.13).

    After a checkpoint is loaded, the scheduler and its optimiser have the rate by the schedule of its own number of
    steps, and `get_last_lr` reads a private attribute.
    """
    rates = zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
    scheduler._last_lr = [base * rate(scheduler.last_epoch) for base, rate in rates]
    for group, rate in zip(scheduler.optimizer.param_groups, scheduler._last_lr, strict=True):
        group["lr"] = rate


def is_known_absent(repository: str, name: str, revision: str | None) -> bool:
    """Return whether the hub's cache has noted that a repository lacks a file (huggingface_hub 2.4.0)."""
    import huggingface_hub as hub

    return hub.try_to_load_from_cache(repository, name, revision=revision) is hub._CACHED_NO_EXIST
