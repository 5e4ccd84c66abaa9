"""Handle SIGTERM, by which a scheduler takes a machine back: the process ends with exit code 143.

Files on the disk are complete at any moment, so mining and evaluation end at once. Training defers the signal until its
step is done and has a checkpoint (`checkpoint.Checkpoints`).
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

EXIT_CODE = 128 + signal.SIGTERM  # as a shell reports a process that the signal ended


class Preempted(SystemExit):
    """Ends the process without a further message, with `EXIT_CODE` or another code."""

    def __init__(self, code: int = EXIT_CODE) -> None:
        super().__init__(code)


class _Signal:
    """The state of this process: whether the signal is deferred, was received meanwhile, or has ended the work."""

    deferred = received = handled = False


@contextmanager
def listening() -> Iterator[None]:
    """Have SIGTERM raise `Preempted` inside of the context; the handler of another program, such as a launcher, stays.

    A library that cleans up may raise another error in its place, which becomes `Preempted` again.
    """
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _handle)
    _Signal.handled = False
    try:
        yield
    except Exception as error:
        if _Signal.handled:
            raise Preempted from error
        raise
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def defer() -> None:
    """Defer the signal until `redeliver`."""
    _Signal.deferred, _Signal.received = True, False


def received() -> bool:
    """Return whether the signal was received while it was deferred."""
    return _Signal.received


def redeliver() -> bool:
    """Defer the signal no longer; return whether it was received meanwhile."""
    pending, _Signal.deferred, _Signal.received = _Signal.received, False, False
    return pending


def survive_once(*_: Any) -> None:
    """Ignore the first signal, as a handler for a loader's worker: its rank still needs it for the current step."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _handle(*_: Any) -> None:
    if not _Signal.deferred:
        _Signal.handled = True
        raise Preempted
    _Signal.received = True
