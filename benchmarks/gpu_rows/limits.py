"""Row 7: the most pairs that fit, the chunk that runs fastest, and where the time of a step goes."""

from __future__ import annotations

import gc
from functools import partial
from typing import TYPE_CHECKING

import psutil
import torch
from resident import resident

from gpu_rows.clock import measure_peak, repeat
from gpu_rows.recorder import free_memory
from gpu_rows.steps import Trainee
from gpu_rows.trace import READS, trace
from gpu_rows.works import even_pairs

if TYPE_CHECKING:
    from gpu_rows.bench import Bench

LONGEST = 12  # kernels that are named
NEARLY = 0.95  # of the most pairs, which must fit; as much beyond them must not


def run(bench: Bench) -> None:
    """Record them, the profile first, as it takes least time."""
    trainee = Trainee.make(bench, 0.1)
    profile(bench, trainee)
    fastest_chunk(bench, trainee)
    most_pairs(bench, trainee)


def profile(bench: Bench, trainee: Trainee) -> None:
    """Record the longest kernels of a small step, the gaps between kernels, and what the host waits for."""
    add = bench.recorder.add
    pairs = even_pairs(bench.setting.growth[0], bench.setting.side)
    _, batch = trainee.batch(pairs)
    step = partial(trainee.ours, batch, 0)
    step()
    seen = trace(step, bench.device)
    name = f"{len(pairs)} pairs, no graph kept"
    add(f"{name}, profiled: span", seen.span, "ms")
    add(f"{name}, profiled: the device idle", 100 * (1 - seen.busy / seen.span), "% of the span")
    total = sum(milliseconds for _, milliseconds, _ in seen.kernels)
    for kernel, milliseconds, count in seen.kernels[:LONGEST]:
        bench.recorder.note(
            f"{100 * milliseconds / total:5.1f} %  {milliseconds:8.2f} ms  {count:6,} x  {kernel[:100]}"
        )
    add(f"{name}: host waits for the device", sum(n for wait, n in seen.waits.items() if wait != READS))
    add(f"{name}: values read as numbers", seen.waits.get(READS, 0))
    for wait, count in seen.waits.items():
        bench.recorder.note(f"{count:,} x {wait}")


def fastest_chunk(bench: Bench, trainee: Trainee) -> None:
    """Record the time of a step by the tokens of its chunks."""
    setting = bench.setting
    pairs = even_pairs(setting.growth[0], setting.side)
    seconds: dict[int, float] = {}
    for tokens in setting.tokens:
        free_memory()
        try:
            _, batch = trainee.batch(pairs, tokens)
            seconds[tokens] = repeat(partial(trainee.ours, batch, 0), bench.device, setting.seconds)
        except torch.cuda.OutOfMemoryError as error:
            bench.recorder.fail(error, f"chunks of {tokens:,} tokens: out of memory")
            continue
        bench.recorder.add(
            f"chunks of {tokens:,} tokens ({len(batch.chunks)})", len(pairs) / seconds[tokens], "pairs/s"
        )
    best = min(seconds, key=seconds.__getitem__)
    bench.recorder.add("the chunk that runs fastest", best, "tokens")
    bench.recorder.note(f"the library's own is {trainee.embedder.budget:,} tokens")


def most_pairs(bench: Bench, trainee: Trainee) -> None:
    """Record how many pairs a step can have that keeps no graph.

    What a step holds grows with its pairs along a line, which two small steps give. Whether so many fit is tried with a
    small step beside an allocation of what the further pairs would hold.
    """
    add, few, more = bench.recorder.add, *bench.setting.growth
    steps, peaks = {}, {}
    for count in (few, more):
        pairs = even_pairs(count, bench.setting.side)
        _, batch = trainee.batch(pairs)
        steps[count] = partial(trainee.ours, batch, 0)
        steps[count]()
        peaks[count] = measure_peak(steps[count], bench.device).most
        add(f"{count} pairs, no graph kept: peak", peaks[count] / 2**30, "GiB")
    inputs = sum(tensor.nbytes for picture in batch.pictures.values() for tensor in picture.values()) / more
    add("a pair's picture as inputs, in main memory", inputs / 2**20, "MiB")
    add("pairs whose pictures main memory holds", int(psutil.virtual_memory().total / inputs))
    each = (peaks[more] - peaks[few]) / (more - few)
    if each <= 0:
        bench.recorder.note(f"from {few} to {more} pairs the peak does not grow: the device's memory sets no limit")
        return
    add("bytes that a pair more takes on the device", each / 2**20, "MiB")
    room = capacity(bench)
    most = few + int((room - peaks[few]) / each)
    add("the most pairs that fit, no graph kept", most)
    if most <= more:
        return
    for part in (NEARLY, 2 - NEARLY):
        fits = runs_beside(bench, steps[few], int(each * (part * most - few)), room)
        expected = part < 1 if bench.device.type == "cuda" else None
        add(f"{int(part * most):,} pairs fit, by an allocation in their place", fits, expected=expected)


def capacity(bench: Bench) -> int:
    """Return the bytes that this process can have on the device; on a CPU, what it has and a given number more."""
    free_memory()
    if bench.device.type == "cuda":
        return torch.cuda.mem_get_info(bench.device)[0] + torch.cuda.memory_reserved(bench.device)
    return int(resident("VmRSS") * 2**20) + (bench.setting.spare or 0)


def runs_beside(bench: Bench, step: partial[torch.Tensor], ballast: int, room: int) -> bool:
    """Return whether a step runs while something else holds some bytes."""
    free_memory()
    held = None
    try:
        held = torch.ones(ballast, dtype=torch.uint8, device=bench.device)
        return measure_peak(step, bench.device).most <= room
    except torch.cuda.OutOfMemoryError:
        return False
    finally:
        del held
        gc.collect()
        free_memory()
