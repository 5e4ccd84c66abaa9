"""Start the worker processes of loaders, and check that the batches which they hold fit into shared memory.

Prepared batches travel in shared memory, on Linux in /dev/shm, and stay there until the step that uses them is done.
A container has 64 MB of it by default, and a worker that finds it full is ended by SIGBUS.
"""

from __future__ import annotations

import mmap
import os
import re
import shutil
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from gen2embed.utils.errors import UserError, first_line
from gen2embed.utils.memory import free_bytes, readable
from gen2embed.utils.preemption import survive_once

Value = TypeVar("Value")
SHARED = Path("/dev/shm")  # where Linux keeps shared memory
HEADER, PAGE = 64, mmap.PAGESIZE  # bytes: of torch before each tensor; of a page of the system
TAKEN = 2  # batches outside of the loader: the current, and the next, which Lightning fetches early
LARGER = "enlarge it (docker run --shm-size=… or --ipc=host)"


@dataclass(frozen=True)
class Prefetch:
    """How many batches worker processes prepare ahead.

    Args:
        workers: The processes that may be started; 0 prepares each batch when it is needed.
        prefetch: The batches in preparation or ready, of all workers together; None for one a worker.
        group: The group of the configuration, for messages.
    """

    workers: int
    prefetch: int | None = None
    group: Literal["batch", "engine"] = "batch"

    def __post_init__(self) -> None:
        """Raise `UserError` for numbers that are too small."""
        if self.workers < 0:
            raise UserError(f"{self.group}.workers is at least 0; got {self.workers}")
        if self.prefetch is not None and self.prefetch < 1:
            raise UserError(f"{self.group}.prefetch is at least 1, or null for one a worker; got {self.prefetch}")

    @property
    def processes(self) -> int:
        """Return how many processes are started: no more than batches."""
        return min(self.workers, self.prefetch or self.workers)

    @property
    def per_process(self) -> int:
        """Return how many batches each process prepares at a time."""
        return (self.prefetch or self.workers) // self.processes if self.processes else 0

    @property
    def held(self) -> int:
        """Return how many batches exist at most, inside and outside of the loader."""
        return self.processes * self.per_process + TAKEN if self.processes else 0

    def describe(self, size: int) -> str:
        """Return in words what is held, if a batch has at most `size` bytes."""
        if not self.processes:
            return "none: a batch is prepared when the step before it is done"
        held = f"at most {self.held} batches of about {readable(size)}, {readable(self.held * size)} in {room()[0]}"
        return f"{self.processes} of {self.workers} workers, which hold {held}"

    def check(self, size: int, ranks: int = 1) -> None:
        """Raise `UserError` if the batches that are held do not fit into shared memory.

        Args:
            size: The bytes of the largest batch.
            ranks: The ranks that share this machine.
        """
        where, free = room()
        if self.held * size * ranks <= free:
            return
        fits = free // (size * ranks) - TAKEN
        lower = f"set {self.group}.prefetch={fits}" if fits >= 1 else f"set {self.group}.workers=0"
        on = f" on {ranks} ranks" if ranks > 1 else ""
        raise UserError(
            f"loaders would hold about {readable(self.held * size * ranks)} in {where} ({self.held} batches of "
            f"{readable(size)}{on}), and {readable(free)} are free: {lower}, or {LARGER}"
        )


def room() -> tuple[str, int]:
    """Return where prepared batches are kept, and how many bytes are free there."""
    memory = free_bytes(torch.device("cpu"))
    if not SHARED.is_dir():
        return "memory", memory
    shared = shutil.disk_usage(SHARED).free
    return ("memory", memory) if memory < shared else (str(SHARED), shared)


def make_loader(dataset: Dataset[Any], ahead: Prefetch, **options: Any) -> DataLoader[Any]:
    """Return a loader whose workers hold no more than `ahead` says."""
    return DataLoader(
        dataset,
        num_workers=ahead.processes,
        prefetch_factor=ahead.per_process or None,
        pin_memory=torch.cuda.is_initialized(),
        worker_init_fn=start_worker,
        **options,
    )


def start_worker(_: int) -> None:
    """Prepare a worker process."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # threads of tokenizers do not survive a fork
    signal.signal(signal.SIGTERM, survive_once)
    torch.multiprocessing.set_sharing_strategy("file_system")  # file descriptors run out, one a tensor


def value_or_error(prepare: Callable[[], Value]) -> Value | UserError:
    """Return what `prepare` returns, or the `UserError` that it raises; the main process calls `unwrap`.

    An error that a worker raises reaches the main process wrapped into a traceback.
    """
    try:
        return prepare()
    except UserError as error:
        return error


def unwrap(value: Value | UserError) -> Value:
    """Return what a worker prepared; raises the `UserError` that took its place."""
    if isinstance(value, UserError):
        raise value
    return value


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """Return how many bytes of shared memory tensors take: each is a file of whole pages, with a header."""
    return sum(-(-(tensor.nbytes + HEADER) // PAGE) * PAGE for tensor in tensors)


ENDED = re.compile(r"DataLoader worker \(pid.*?\) (is killed by signal: |exited unexpectedly)")


def why_ended(error: BaseException) -> str | None:
    """Return the message, with the remedy, for a worker that the system ended; None for any other error."""
    if not isinstance(error, RuntimeError) or not ENDED.search(str(error)):
        return None
    where, free = room()
    reason = first_line(error).partition(". ")[0].rstrip(". ")
    return (
        f"{reason}: shared memory or memory was short, of which {readable(free)} are free now in {where}; lower "
        f"batch.prefetch or engine.prefetch, set batch.workers=0 or engine.workers=0, or {LARGER}"
    )


@contextmanager
def explained() -> Iterator[None]:
    """Raise `UserError`, with the remedy, if a loader's worker is ended inside of the context."""
    try:
        yield
    except RuntimeError as error:
        if message := why_ended(error):
            raise UserError(message) from error
        raise
