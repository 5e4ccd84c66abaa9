"""Share work between processes through files: each does its part, and waits for the files of the others."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from gen2embed.utils.errors import UserError

Part = TypeVar("Part")
LOOK = 0.1  # seconds between two looks for a file


def _alone() -> None:
    """Return at once, as the barrier of a single process."""


@dataclass(frozen=True)
class RankGroup:
    """The processes that share the work of this one.

    Args:
        rank: The number of this process, from 0.
        count: The number of processes.
        barrier: Returns when every rank has called it.
        timeout_seconds: How long to wait for the next file of another rank.
    """

    rank: int = 0
    count: int = 1
    barrier: Callable[[], None] = _alone
    timeout_seconds: float = 1800

    def share(self, parts: Sequence[Part]) -> Sequence[Part]:
        """Return the parts of this rank: each `count`-th."""
        return parts[self.rank :: self.count]

    def wait(self, files: Sequence[Path]) -> None:
        """Return when all files exist; raise `UserError` if the next one does not come in time."""
        if missing := wait_for(files, self.timeout_seconds):
            raise UserError(
                f"other ranks have not written {len(missing)} of {len(files)} files, such as {missing[0]}, for "
                f"{self.timeout_seconds:g} seconds; read their logs, then run the same command again, or raise "
                "trainer.strategy.timeout_seconds"
            )


def wait_for(files: Sequence[Path], seconds: float, ready: Callable[[Path], bool] = Path.is_file) -> list[Path]:
    """Wait for files that other processes write; return those that are missing after `seconds` without a further one.

    Args:
        files: The files.
        seconds: How long to wait for the next file.
        ready: Whether a file is complete.
    """
    missing, since = [path for path in files if not ready(path)], time.monotonic()
    while missing and time.monotonic() - since <= seconds:
        time.sleep(LOOK)
        left = [path for path in missing if not ready(path)]
        if len(left) < len(missing):
            missing, since = left, time.monotonic()
    return missing


ALONE = RankGroup()
