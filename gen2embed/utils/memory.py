"""Measure the memory of this machine, its control group and its GPUs."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import psutil
import torch


def free_bytes(device: torch.device) -> int:
    """Return the bytes that are free on a GPU, else on the machine and within the limit of its control group."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = psutil.virtual_memory().available
    limit, used = (Path("/sys/fs/cgroup") / f"memory.{name}" for name in ("max", "current"))
    if limit.is_file() and (most := limit.read_text().strip()).isdigit():
        free = min(free, int(most) - int(used.read_text()))
    return max(0, free)


def readable(size: float) -> str:
    """Return a number of bytes as text, in GiB or MiB."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def peak_gib(device: torch.device) -> float:
    """Return the peak memory of this process so far, in GiB: on its GPU, else in main memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    unit = 1 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
