"""Row 7's profile: which kernels take the time of a step, how long the device idles, and where the host waits."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.profiler_util import DeviceType
from torch.profiler import ProfilerActivity

WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy")
READS = "aten::_local_scalar_dense"  # a value of a tensor as a number of Python's: on a GPU it waits
MARK = "the traced work"


@dataclass(frozen=True)
class Trace:
    """What a profiler saw of some work. On a CPU the kernels are operations, and it is busy throughout.

    Args:
        kernels: The name of each kernel, its milliseconds and how often it ran, the longest first.
        busy: The milliseconds in which the device computed.
        span: The milliseconds from the first kernel to the end of the last.
        waits: How often the host waited, by the name of the call.
    """

    kernels: list[tuple[str, float, int]]
    busy: float
    span: float
    waits: dict[str, int]


def trace(work: Callable[[], Any], device: torch.device) -> Trace:
    """Run some work under the profiler."""
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with torch.profiler.profile(activities=activities) as recorded:
        with torch.profiler.record_function(MARK):
            work()
        if on_gpu:
            torch.cuda.synchronize(device)
    return summarize(list(recorded.events() or ()), on_gpu)


def summarize(events: Sequence[Any], on_gpu: bool) -> Trace:
    """Return what a profiler's events say of the marked work; their times are microseconds."""
    host = [event for event in events if event.device_type == DeviceType.CPU]
    mark = next(event.time_range for event in host if event.name == MARK)
    within = [event for event in host if mark.start <= event.time_range.start <= mark.end]
    waits = Counter(event.name for event in within if event.name in (*WAITS, READS))
    if not on_gpu:
        ran = [(event.name, event.self_cpu_time_total) for event in within if _runs(event)]
        return Trace(_by_name(ran), (mark.end - mark.start) / 1e3, (mark.end - mark.start) / 1e3, dict(waits))
    kernels = [event for event in events if event.device_type == DeviceType.CUDA and _runs(event)]
    busy, span = busy_and_span((event.time_range.start, event.time_range.end) for event in kernels)
    ran = [(event.name, event.time_range.end - event.time_range.start) for event in kernels]
    return Trace(_by_name(ran), busy / 1e3, span / 1e3, dict(waits))


def _runs(event: Any) -> bool:
    """Return whether an event computes something, and is no name that a program gave to some of its time."""
    return event.name != MARK and not event.is_user_annotation


def busy_and_span(ranges: Iterable[tuple[float, float]]) -> tuple[float, float]:
    """Return how long at least one of some ranges lasts, and from the first start to the last end."""
    busy, first, last = 0.0, None, 0.0
    for start, end in sorted(ranges):
        if first is None:
            first = last = start
        busy += max(0.0, end - max(start, last))
        last = max(last, end)
    return busy, last - first if first is not None else 0.0


def _by_name(ran: Iterable[tuple[str, float]]) -> list[tuple[str, float, int]]:
    """Return names, the sum of their times in milliseconds, and how often they occur; the longest first."""
    spent: dict[str, float] = defaultdict(float)
    count = Counter[str]()
    for name, microseconds in ran:
        spent[name] += microseconds / 1e3
        count[name] += 1
    return [(name, spent[name], count[name]) for name in sorted(spent, key=lambda name: -spent[name])]
