"""Row 1: what the device can do at its best, which the other rows are measured by."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from gpu_rows.clock import repeat

if TYPE_CHECKING:
    from gpu_rows.bench import Bench

TOGETHER = 10  # products, or copies, between two events: the time of one is too short for the clock


def product_rate(device: torch.device, size: int, dtype: torch.dtype, seconds: float) -> float:
    """Return operations a second in a square product of random matrices.

    Zeros or ones would be faster: a card that flips fewer bits takes less power, and keeps a higher clock.
    """
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    out = torch.empty(size, size, device=device, dtype=dtype)

    def work() -> None:
        for _ in range(TOGETHER):
            torch.mm(left, right, out=out)

    return TOGETHER * 2 * size**3 / repeat(work, device, seconds)


def copy_rate(device: torch.device, size: int, seconds: float) -> float:
    """Return bytes a second of a copy on the device, each byte read and written."""
    source = torch.randint(256, (size,), device=device, dtype=torch.uint8)
    target = torch.empty_like(source)

    def work() -> None:
        for _ in range(TOGETHER):
            target.copy_(source)

    return TOGETHER * 2 * size / repeat(work, device, seconds)


def upload_rate(device: torch.device, size: int, seconds: float) -> float:
    """Return bytes a second from pinned memory to the device."""
    source = torch.empty(size, dtype=torch.uint8, pin_memory=device.type == "cuda")
    target = torch.empty(size, dtype=torch.uint8, device=device)
    return size / repeat(lambda: target.copy_(source, non_blocking=True), device, seconds)


def run(bench: Bench) -> None:
    """Record the yardstick."""
    add, setting = bench.recorder.add, bench.setting
    rates = []
    for size in setting.products:
        rates.append(product_rate(bench.device, size, torch.bfloat16, setting.seconds))
        add(f"bf16 product of {size:,} x {size:,}", rates[-1] / 1e12, "TFLOP/s")
    bench.rate = max(rates)
    add("row 1's rate: the best of them", bench.rate / 1e12, "TFLOP/s")
    size = setting.products[0]
    add(f"float32 product of {size:,} x {size:,}", product_rate(bench.device, size, torch.float32, 1) / 1e12, "TFLOP/s")
    add("copy on the device", copy_rate(bench.device, setting.copied, 1) / 1e9, "GB/s")
    add("copy to the device", upload_rate(bench.device, setting.copied // 4, 1) / 1e9, "GB/s")
