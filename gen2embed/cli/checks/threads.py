"""Check that torch computes with as many CPU threads as the machine has to spare."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from gen2embed.cli.checks.findings import Finding

CGROUP = Path("/sys/fs/cgroup")
SECONDS = 0.3  # of each measurement
WORSE = 0.8  # of one thread's rate: with more threads, fewer than these are a loss


def check_threads() -> Iterator[Finding]:
    """Compare torch's threads with the CPUs that are free, and their speed with that of a single one."""
    if torch.cuda.is_available():
        return
    threads, cpus, load = torch.get_num_threads(), usable_cpus(), os.getloadavg()[0]
    state = f"threads: torch takes {threads} of {cpus:g} CPUs, and the load is {load:.1f}"
    if threads == 1:
        yield Finding("ok", state)
        return
    several, single = measure(threads), measure(1)
    free = max(1, int(cpus - load))
    remedy = f"set OMP_NUM_THREADS={min(free, threads - 1)}"
    if several < WORSE * single:
        yield Finding(
            "warning", f"{state}: {threads} threads compute {several / single:.2f} times as fast as one; {remedy}"
        )
    elif threads > cpus:
        yield Finding(
            "warning", f"{state}: more threads than CPUs wait for each other; set OMP_NUM_THREADS={max(1, int(cpus))}"
        )
    else:
        yield Finding("ok", f"{state}; {threads} threads compute {several / single:.1f} times as fast as one")


def usable_cpus() -> float:
    """Return how many CPUs this process may use: by its affinity, and by the quota of its container."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(affinity, _quota())


def _quota() -> float:
    """Return the CPUs that the control group grants, by its versions 2 and 1; infinite where it sets no limit."""
    try:
        if (file := CGROUP / "cpu.max").is_file():
            quota, period = file.read_text().split()
        else:
            quota, period = ((CGROUP / f"cpu/cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return int(quota) / int(period) if quota != "max" and int(quota) > 0 else float("inf")
    except (OSError, ValueError):
        return float("inf")


def measure(threads: int) -> float:
    """Return steps a second of a layer's operations with a number of threads, over `SECONDS`."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        layer, inputs = torch.randn(512, 512), torch.randn(128, 512)
        steps, start = 0, time.perf_counter()
        with torch.inference_mode():
            while (elapsed := time.perf_counter() - start) < SECONDS or not steps:
                torch.nn.functional.gelu(torch.nn.functional.layer_norm(inputs @ layer, (512,)))
                steps += 1
        return steps / elapsed
    finally:
        torch.set_num_threads(before)
