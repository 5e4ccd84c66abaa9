"""The main memory that this process holds, and the most that it held."""

from __future__ import annotations

import ctypes
import gc
from pathlib import Path


def resident(name: str) -> float:
    """Return MiB of this process: VmRSS is what it holds, VmHWM the most since the last `forget_peak`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) / 2**10


def give_back_memory() -> None:
    """Give back to the system what Python and the heap keep for later."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")  # as proc(5) has it
