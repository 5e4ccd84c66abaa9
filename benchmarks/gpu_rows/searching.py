"""Row 8: exact search, in seconds, and its products alone beside the rate of row 1."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
import torch

from gen2embed.search.exact import SPARE, Exact, Search
from gpu_rows.clock import exact_float32, repeat

if TYPE_CHECKING:
    from gpu_rows.bench import Bench

SHARE = 50  # goal: percent of row 1's rate
COUNT = 10  # neighbours of a query
CHECKED = 32  # queries that are compared with float64 products of all candidates


def draw_vectors(count: int, dim: int, device: torch.device, seed: int) -> np.ndarray:
    """Return random unit vectors in float16, as a store's may be."""
    generator = torch.Generator(device).manual_seed(seed)
    vectors = torch.randn(count, dim, device=device, generator=generator)
    return torch.nn.functional.normalize(vectors, dim=1).half().cpu().numpy()


def run(bench: Bench) -> None:
    """Record shard after shard of queries, then the whole."""
    setting, add = bench.setting, bench.recorder.add
    count, dim = setting.searched, setting.dim
    queries, candidates = (draw_vectors(count, dim, bench.device, seed) for seed in (0, 1))
    search = Search(device=bench.device.type)
    size, width = search.blocks(dim, COUNT)
    operations = 2 * dim * count  # of a query
    products = _products(bench, min(size, count), min(width, count))
    add("products and largest scores alone, in float32", count / products, "s")
    share = bench.share(operations * products, 1)
    add("the same, of row 1's rate", share, "%")
    started = time.perf_counter()
    exact = Exact(candidates, search)
    add("candidates checked", time.perf_counter() - started, "s")
    step = min(search.shard_size, count)
    few = queries[:CHECKED]
    best = np.argsort(-few.astype(np.float64) @ candidates.astype(np.float64).T, axis=1, kind="stable")[:, :COUNT]
    same = bool((exact(few, COUNT) == best).all())  # and a warm-up
    add(f"{CHECKED} queries have the neighbours of float64", same, expected=True)
    done, total = 0, 0.0
    for start in range(0, count, step):
        bench.synchronize()
        began = time.perf_counter()
        exact(queries[start : start + step], COUNT)
        bench.synchronize()
        total += time.perf_counter() - began
        done = min(start + step, count)
        if start == 0:
            add(f"the first {done:,} queries among {count:,}", total, "s")
            add("all of them at that pace", total * count / done, "s")
    add(f"{done:,} queries among {count:,}, {dim:,} elements, float16", total, "s")
    add("share of row 1's rate", bench.share(operations * done, total), "%", at_least=bench.on_card(SHARE))


def _products(bench: Bench, queries: int, candidates: int) -> float:
    """Return the queries a second of one block's products and largest scores, for all candidates, on the device."""
    left = torch.randn(queries, bench.setting.dim, device=bench.device)
    right = torch.randn(candidates, bench.setting.dim, device=bench.device)
    kept = min(COUNT + SPARE, candidates)
    with exact_float32():
        seconds = repeat(lambda: (left @ right.T).topk(kept, dim=1), bench.device, bench.setting.seconds)
    return queries / (seconds * bench.setting.searched / candidates)
