"""How long work takes within a budget of seconds, and what memory it holds at the most."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from resident import forget_peak, give_back_memory, resident
from yardstick import timed

MOST = 50  # runs of one measurement


def repeat(work: Callable[[], Any], device: torch.device, seconds: float, *, warm: bool = True) -> float:
    """Return the median seconds of a run, of as many as fit into so many seconds, one at least.

    Args:
        work: What is timed.
        device: The device that it runs on.
        seconds: How long it may take in all.
        warm: Whether to run it once before, without counting that.
    """
    return statistics.median(take_turns({"": work}, device, seconds, warm=warm)[""])


def take_turns(
    schemes: Mapping[str, Callable[[], Any]], device: torch.device, seconds: float, *, warm: bool = True
) -> dict[str, list[float]]:
    """Return the seconds of each scheme in each round, of as many rounds as fit into so many seconds, one at least.

    Each round begins with another scheme, so that what slows the machine down for a while slows all of them.
    """
    if warm:
        for work in schemes.values():
            work()
    names, taken = list(schemes), {name: list[float]() for name in schemes}
    started, turn = time.perf_counter(), 0
    while turn == 0 or (turn < MOST and (time.perf_counter() - started) * (turn + 1) / turn < seconds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            taken[name].append(timed(schemes[name], device)[1])
        turn += 1
    return taken


@dataclass(frozen=True)
class Peak:
    """Bytes on the device, or of this process on a CPU: held before some work, and at the most during it."""

    before: int
    most: int
    seconds: float

    @property
    def over(self) -> int:
        return self.most - self.before


def measure_peak(work: Callable[[], Any], device: torch.device) -> Peak:
    """Return what memory some work holds, and how long it takes, the first time included."""
    give_back_memory()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    else:
        before = int(resident("VmRSS") * 2**20)
        forget_peak()
    seconds = timed(work, device)[1]
    most = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else int(resident("VmHWM") * 2**20)
    return Peak(before, most, seconds)


@contextmanager
def exact_float32() -> Iterator[None]:
    """Compute float32 products and convolutions in float32 inside the context, without TF32."""
    products, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = convolutions
