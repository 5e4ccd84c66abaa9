"""A time limit for what is measured, so that a large model on a slow machine does not keep its user waiting."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class TimeUp(BaseException):
    """Ends a measurement. No error of the libraries, which handlers of `Exception` would take it for."""


class Budget:
    """Seconds for all measurements together."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        return max(0.0, self._end - time.monotonic())

    @contextmanager
    def limited(self, share: float = 1.0) -> Iterator[None]:
        """Raise `TimeUp` inside once a share of what is left is spent.

        The system's timer interrupts between two operations of a forward pass. Outside of the main thread there is no
        such timer, and what has begun goes on to its end.
        """
        left = self.left * share
        if left <= 0:
            raise TimeUp
        if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
            yield
            return
        before = signal.signal(signal.SIGALRM, _time_is_up)
        signal.setitimer(signal.ITIMER_REAL, left)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)


def _time_is_up(*_: object) -> None:
    raise TimeUp
