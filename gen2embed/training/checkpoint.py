"""The checkpoints of a run: each is written completely or not at all, and old ones are removed.

`step=000100.ckpt` is a file, or a folder of shards where the strategy writes one. A checkpoint of another name, or that
no run wrote, stays, and no run resumes from it. Hidden ones are unfinished or half removed: they are removed when a run
starts. A file ends with the SHA-256 of its content, which is compared before it is read; a folder of shards has none.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError  # what torch raises; nothing is unpickled here
from typing import IO, Any

import torch
from lightning import LightningModule, Trainer
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint

from gen2embed.training.logger import CSVLogger
from gen2embed.utils import preemption
from gen2embed.utils.errors import UserError, first_line
from gen2embed.utils.files import put_in_place, write_atomic
from gen2embed.utils.log import log

MARK = b"sha256:"
UNFINISHED = re.compile(r"\.(step=\d+\.ckpt|\.step=\d+\.ckpt\.[0-9a-f]{32}|step=\d+\.ckpt\.removed)")
DIGEST = len(MARK) + hashlib.sha256().digest_size


class CheckpointFiles(TorchCheckpointIO):
    """Writes a checkpoint under a temporary name and renames it. Reads plain values and tensors only."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        write_atomic(Path(path), lambda file: _save(checkpoint, file))

    def load_checkpoint(  # type: ignore[override]
        self, path: str | Path, map_location: Callable[..., Any] | str = "cpu", weights_only: bool | None = None
    ) -> dict[str, Any]:
        if Path(path).is_file():
            _check_digest(Path(path))
        try:
            return torch.load(path, map_location=map_location, weights_only=True)
        except (RuntimeError, EOFError, OSError, UnpicklingError) as error:
            first = first_line(error)
            raise UserError(
                f"the checkpoint {path} cannot be read: {first}; remove it to go on from an earlier one"
            ) from error


class _Hashed:
    """A file that computes the digest of what is written to it."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.digest = file, hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self.file.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def _save(checkpoint: dict[str, Any], file: IO[bytes]) -> None:
    hashed = _Hashed(file)
    torch.save(checkpoint, hashed)
    file.write(MARK + hashed.digest.digest())


def _check_digest(path: Path) -> None:
    """Raise `UserError` unless a checkpoint has the digest that it was saved with."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        left = max(file.seek(0, os.SEEK_END) - DIGEST, 0)
        file.seek(0)
        while data := file.read(min(left, 2**20)):
            digest.update(data)
            left -= len(data)
        if file.read() != MARK + digest.digest():
            raise UserError(
                f"the checkpoint {path} cannot be read: its SHA-256 is not that of what was saved; remove it to go on "
                "from an earlier one"
            )


class Checkpoints(Checkpoint):  # which Lightning calls after all other callbacks
    """Saves a checkpoint every n steps of the optimiser and after the last, and removes old ones.

    On SIGTERM to any rank, all ranks finish and save their step, and end with `preemption.EXIT_CODE`.

    Args:
        folder: The folder of the checkpoints.
        every_n_steps: The number of steps between two checkpoints; None saves after the last step alone.
        keep: The number of newest checkpoints that stay. No checkpoint is removed before the next is complete.
    """

    def __init__(self, folder: Path, every_n_steps: int | None = 100, keep: int = 2) -> None:
        if every_n_steps is not None and every_n_steps < 1:
            raise UserError(
                "callbacks.checkpoints.every_n_steps is at least 1, or null for the last step alone; got "
                f"{every_n_steps}"
            )
        if keep < 1:
            raise UserError(f"callbacks.checkpoints.keep is at least 1; got {keep}")
        self.folder, self.every_n_steps, self.keep = Path(folder), every_n_steps, keep
        self._saved: set[Path] = set()

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Raise `UserError` if the ranks resume from different checkpoints."""
        first = trainer.strategy.broadcast(trainer.global_step)
        if first != trainer.global_step:
            raise UserError(
                f"rank {trainer.global_rank} starts at step {trainer.global_step}, and rank 0 at step {first}: "
                "output_dir must be a folder that all ranks share"
            )
        preemption.defer()

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
        step = trainer.global_step
        stop = trainer.strategy.reduce_boolean_decision(preemption.received(), all=False)
        last = stop or step == trainer.max_steps or trainer.should_stop
        if not last and (not self.every_n_steps or step % self.every_n_steps):
            return
        _log_early(trainer)
        path = self.save(trainer, f"step={step:06d}")
        if trainer.is_global_zero:
            self.thin()
        if stop:
            log.info("SIGTERM: step %d of %d is in %s", step, trainer.max_steps, path)
            # Lightning kills the rank that started the others if one of them fails first
            raise preemption.Preempted(preemption.EXIT_CODE if trainer.local_rank == 0 else 0)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        if preemption.redeliver():
            raise preemption.Preempted

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        preemption.redeliver()

    def thin(self) -> None:
        """Remove all checkpoints but the `keep` newest."""
        for old in saved_checkpoints(self.folder)[: -self.keep]:
            if self._may_remove(old):
                remove_checkpoint(old)

    def _may_remove(self, path: Path) -> bool:
        return path in self._saved or is_own(path)

    def save(self, trainer: Trainer, name: str) -> Path:
        """Save `<folder>/<name>.ckpt`, in place of what was there; returns its path. Every rank calls this."""
        path = self.folder / f"{name}.ckpt"
        unfinished = path.with_name(f".{path.name}")  # a folder of shards takes several writes
        trainer.save_checkpoint(unfinished, weights_only=False)
        if trainer.is_global_zero:
            if path.is_dir() and self._may_remove(path):
                remove_checkpoint(path)
            put_in_place(unfinished, path)
            self._saved.add(path)
        trainer.strategy.barrier()
        return path


def _log_early(trainer: Trainer) -> None:
    """Write all rows of the log up to this step: Lightning writes them after the checkpoint, and the run may die."""
    interval: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
    logged = bool(interval) and (trainer.global_step % interval == 0 or trainer.should_stop)
    for logger in trainer.loggers:
        if isinstance(logger, CSVLogger):
            if logged:
                metrics = {name: float(value) for name, value in trainer.logged_metrics.items() if name != "step"}
                logger.log_early(metrics, trainer.global_step)
            logger.save()


def saved_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder that a run can resume from, oldest first."""
    return sorted((path for path in folder.glob("step=*.ckpt") if re.fullmatch(r"step=\d+", path.stem)), key=step_of)


def is_own(path: Path) -> bool:
    """Return whether a run wrote a checkpoint: a file that ends with a digest, or a folder of shards."""
    if path.is_symlink():
        return False
    if path.is_dir():
        return (path / "checkpoint").is_dir()
    with path.open("rb") as file:
        file.seek(max(file.seek(0, os.SEEK_END) - DIGEST, 0))
        return file.read(len(MARK)) == MARK


def step_of(path: Path) -> int:
    """Return the step of a checkpoint, which its name holds."""
    return int(path.stem.removeprefix("step="))


def remove_unfinished(folder: Path) -> None:
    """Remove unfinished checkpoints of a run that was killed."""
    for path in folder.glob(".*step=*.ckpt*"):
        if UNFINISHED.fullmatch(path.name) and not path.is_symlink():
            _delete(path)


def remove_checkpoint(path: Path) -> None:
    """Remove a checkpoint, under a hidden name first, so that a folder that is half removed is not taken for one."""
    _delete(path.rename(path.with_name(f".{path.name}.removed")))


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
