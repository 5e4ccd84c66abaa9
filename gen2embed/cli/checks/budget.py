"""A time limit for measurements, so that a large model on a slow machine does not keep its user waiting."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class TimeUp(BaseException):
    """Ends a measurement. It is no `Exception`, as handlers in the libraries would catch that."""


class Budget:
    """Seconds for all measurements together."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Return the seconds that are left."""
        return max(0.0, self._end - time.monotonic())

    @contextmanager
    def limited(self, share: float = 1.0) -> Iterator[None]:
        """Raise `TimeUp` inside the block once a share of the seconds left is spent.

        The system's timer interrupts between two operations of a forward pass. Outside of the main thread there is no
        such timer, and the block runs to its end.
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
