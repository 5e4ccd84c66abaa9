"""SIGTERM, by which a scheduler takes a machine back: the process ends with exit code 143, at once or after its step.

What is on disk is whole at any moment, so mining and evaluation end where they are. Training holds the signal back
until its step is done and has a checkpoint (`checkpoint.Checkpoints`).
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

EXIT_CODE = 128 + signal.SIGTERM  # as a shell says it of a process that the signal ended


class Preempted(SystemExit):
    """Ends the process with `EXIT_CODE`, or another code; what was to be said is said."""

    def __init__(self, code: int = EXIT_CODE) -> None:
        super().__init__(code)


class _Signal:
    """Of this process. held: back, for now. came: while it was. taken: has ended what it met."""

    held = came = taken = False


@contextmanager
def listening() -> Iterator[None]:
    """Inside, SIGTERM raises `Preempted`; a handler that is there already stays, such as that of a launcher of jobs.

    Libraries that clean up after it may raise another error in its place, which is `Preempted` again outside.
    """
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _take)
    _Signal.taken = False
    try:
        yield
    except Exception as error:
        if _Signal.taken:
            raise Preempted from error
        raise
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def defer() -> None:
    """Have the signal wait."""
    _Signal.held, _Signal.came = True, False


def received() -> bool:
    """Whether the signal came while it was held back."""
    return _Signal.came


def redeliver() -> bool:
    """Have it wait no longer; returns whether it came."""
    came, _Signal.held, _Signal.came = _Signal.came, False, False
    return came


def survive_once(*_: Any) -> None:
    """A handler for a loader's worker, which is signalled with its rank and is still needed for the step."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _take(*_: Any) -> None:
    if not _Signal.held:
        _Signal.taken = True
        raise Preempted
    _Signal.came = True
