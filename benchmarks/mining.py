"""What mining costs against one search a query, what a million candidates take, and how both grow.

    python benchmarks/mining.py                        # everything; an hour on two CPU cores, 3 GB of disk
    python benchmarks/mining.py --parts compare        # 20,000 rows in full against the loop
    python benchmarks/mining.py --parts sampled million growth --output outputs/benchmarks

Vectors are random, of one direction plus noise, so that cosines spread as those of a language model's embeddings do.
Times are printed, and nothing depends on them.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from gen2embed.mining.saha import mine_clusters
from gen2embed.outputs.paths import check_file, write_file
from gen2embed.search.exact import Exact, Search, nearest
from gen2embed.utils.log import progress

TOP_K, MULTIPLIER = 15, 3
POOL = 2 * TOP_K * MULTIPLIER
WRITTEN = 16384  # vectors drawn at a time
console = Console(width=120)


def draw(count: int, width: int, seed: int) -> np.ndarray:
    """Return unit vectors in float32."""
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((count, width), np.float32) + np.float32(1)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    started = time.perf_counter()
    return work(), time.perf_counter() - started


def search_one_by_one(queries: np.ndarray, candidates: np.ndarray, count: int, title: str) -> np.ndarray:
    """Search as the loop does: one search of a flat faiss index for each query."""
    index = faiss.IndexFlatIP(candidates.shape[1])
    index.add(candidates)
    neighbours = np.empty((len(queries), count), np.int64)
    with progress(title, len(queries)) as advance:
        for row in range(len(queries)):
            neighbours[row] = index.search(queries[row : row + 1], count)[1][0]
            advance()
    return neighbours


def group_by_sets(queries: np.ndarray, positive: np.ndarray, neighbours: np.ndarray) -> list[list[int]]:
    """Group as the loop does: with dictionaries and sets, in both phases, without classification."""
    owners_of: dict[int, set[int]] = {}
    for row, candidate in enumerate(positive.tolist()):
        owners_of.setdefault(candidate, set()).add(row)

    def walk(anchor: int, taken: set[int], limit: int) -> list[int]:
        owners: list[int] = []
        for candidate in neighbours[anchor].tolist():
            if candidate == positive[anchor]:
                continue
            free = sorted(owners_of[candidate] - taken - set(owners))
            if free:
                owners.append(max(free, key=lambda row: (float(queries[row] @ queries[anchor]), -row)))
            if len(owners) == limit:
                break
        return [anchor, *sorted(owners, key=lambda row: float(queries[row] @ queries[anchor]))[:TOP_K]]

    clusters, used = [], set[int]()
    for anchor in range(len(queries)):
        if anchor not in used and len(members := walk(anchor, used, TOP_K * MULTIPLIER)) > 1:
            clusters.append(members)
            used |= set(members)
    reused = set[int]()
    for anchor in sorted(set(range(len(queries))) - used):
        if anchor not in reused and len(members := walk(anchor, reused, POOL)) > 1:
            clusters.append(members)
            reused |= set(members)
    return clusters


def table(title: str, *columns: str) -> Table:
    console.print(f"\n{title}")
    table = Table()
    for column in columns:
        table.add_column(column, justify="left" if column == columns[0] else "right")
    return table


def compare(rows: int, width: int) -> None:
    """Search, grouping and the whole, in full, with the clusters of both."""
    queries, candidates, positive = draw(rows, width, 0), draw(rows, width, 1), np.arange(rows)
    neighbours, ours = timed(lambda: nearest(queries, candidates, POOL))
    clusters, grouping = timed(
        lambda: mine_clusters(queries, candidates, positive, TOP_K, MULTIPLIER, neighbours=neighbours)
    )
    looped, loop = timed(lambda: search_one_by_one(queries, candidates, POOL, f"loop over {rows:,} queries"))
    theirs, sets = timed(lambda: group_by_sets(queries, positive, looped))
    again, exactly = timed(lambda: group_by_sets(queries, positive, neighbours))
    out = table(f"{rows:,} rows of {width} elements, every query searched", "seconds", "the loop", "ours", "ratio")
    for name, a, b in (("search", loop, ours), ("grouping", sets, grouping), ("whole", loop + sets, ours + grouping)):
        out.add_row(name, f"{a:.1f}", f"{b:.1f}", f"{a / b:.1f}")
    console.print(out)
    differing = int((looped != neighbours).any(axis=1).sum())
    console.print(
        f"clusters: {len(clusters):,}; identical to the loop's: {clusters == theirs}; to sets on our neighbours: "
        f"{clusters == again} ({exactly:.1f} s); queries whose neighbours float32 alone orders otherwise: {differing:,}"
    )


def sampled(rows: int, width: int, sample: int) -> None:
    """Time our search in full, and the loop on a sample, extrapolated."""
    queries, candidates = draw(rows, width, 0), draw(rows, width, 1)
    some = np.linspace(0, rows - 1, sample).astype(int)
    looped, loop = timed(lambda: search_one_by_one(queries[some], candidates, POOL, f"loop over {sample} queries"))
    neighbours, ours = timed(lambda: nearest(queries, candidates, POOL))
    out = table(f"{rows:,} rows of {width} elements", "search", "seconds")
    out.add_row(f"the loop, {sample} queries, measured", f"{loop:.1f}")
    out.add_row(f"the loop, {rows:,} queries, extrapolated from those", f"{loop / sample * rows:.0f}")
    out.add_row(f"ours, {rows:,} queries, measured", f"{ours:.1f}")
    out.add_row("ratio, extrapolated", f"{loop / sample * rows / ours:.1f}")
    console.print(out)
    shared = np.mean([len(np.intersect1d(a, b)) for a, b in zip(looped, neighbours[some], strict=True)]) / POOL
    console.print(f"neighbours in common on the sample: {shared:.6f}")


def million(rows: int, width: int, sample: int, memory: float, folder: Path) -> None:
    """Search a sample of queries among memory-mapped candidates, and measure the peak of the process's own memory."""
    path = folder / "candidates.npy"
    written = np.lib.format.open_memmap(path, "w+", np.float16, (rows, width))
    with progress("drawing candidates", rows) as advance:
        for start in range(0, rows, WRITTEN):
            stop = min(start + WRITTEN, rows)
            written[start:stop] = draw(stop - start, width, start).astype(np.float16)
            advance(stop - start)
    written.flush()
    del written
    candidates, queries = np.load(path, mmap_mode="r"), draw(sample, width, rows).astype(np.float16)
    with AnonymousPeak() as peak:
        index, opening = timed(lambda: Exact(candidates, Search(memory_gib=memory)))
        neighbours, seconds = timed(lambda: index(queries, POOL))
    out = table(f"{rows:,} candidates of {width} elements, float16, memory-mapped", "", "")
    out.add_row("queries, sampled", f"{sample:,}")
    out.add_row("candidates looked through for NaN and zero", f"{opening:.1f} s")
    out.add_row("search", f"{seconds:.1f} s")
    out.add_row(f"{rows:,} queries, extrapolated", f"{seconds / sample * rows / 3600:.1f} h")
    out.add_row("search.memory_gib", f"{memory:g}")
    out.add_row("peak of own memory during the search, GiB", f"{peak.gib:.2f}")
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    out.add_row("peak resident (getrusage), with pages of the file, GiB", f"{largest:.2f}")
    console.print(out)
    assert neighbours.shape == (sample, POOL)


class AnonymousPeak:
    """The largest resident memory that is not pages of a file, looked at ten times a second; Linux tells it."""

    gib = float("nan")

    def __enter__(self) -> AnonymousPeak:
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        status, peak = Path("/proc/self/status"), 0
        while status.is_file() and not self._done.wait(0.1):
            line = next(line for line in status.read_text().splitlines() if line.startswith("RssAnon"))
            peak = max(peak, int(line.split()[1]))
            self.gib = peak / 2**20


def growth(width: int, largest: int, output: Path) -> None:
    """Print and draw seconds over rows, with the exponent that fits."""
    sizes = [largest // 2**power for power in (4, 3, 2, 1, 0)]
    spent: dict[str, list[float]] = {"search": [], "grouping": []}
    for rows in sizes:
        queries, candidates, positive = draw(rows, width, 0), draw(rows, width, 1), np.arange(rows)
        neighbours, seconds = timed(lambda q=queries, c=candidates: nearest(q, c, POOL))
        spent["search"].append(seconds)
        group = partial(mine_clusters, queries, candidates, positive, TOP_K, MULTIPLIER, neighbours=neighbours)
        spent["grouping"].append(timed(group)[1])
    out = table(f"growth, {width} elements", "rows", "search, s", "grouping, s")
    for rows, a, b in zip(sizes, spent["search"], spent["grouping"], strict=True):
        out.add_row(f"{rows:,}", f"{a:.2f}", f"{b:.2f}")
    console.print(out)
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for name, seconds in spent.items():
        exponent, offset = np.polyfit(np.log(sizes), np.log(seconds), 1)
        console.print(f"{name}: seconds = {np.exp(offset):.3g} rows^{exponent:.2f}")
        (line,) = axes.loglog(sizes, seconds, "o", label=f"{name}, rows$^{{{exponent:.2f}}}$")
        axes.loglog(sizes, np.exp(offset) * np.array(sizes) ** exponent, color=line.get_color())
    axes.set(xlabel="rows", ylabel="seconds", title=f"mining, {width} elements, {torch.get_num_threads()} threads")
    axes.set_xticks(sizes, [f"{rows:,}" for rows in sizes])
    axes.set_xticks([], minor=True)
    axes.grid(alpha=0.3)
    axes.legend()
    write_file(output / "mining_growth.png", "benchmark", lambda file: figure.savefig(file, dpi=150))
    console.print(f"chart: {output / 'mining_growth.png'}")


def main() -> None:
    parts = ("compare", "sampled", "million", "growth")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument("--rows", type=int, default=20_000, help="of compare, and the most of growth")
    parser.add_argument("--sampled-rows", type=int, default=100_000)
    parser.add_argument("--sample", type=int, default=500, help="queries of the loop in sampled")
    parser.add_argument("--candidates", type=int, default=1_000_000, help="of million")
    parser.add_argument("--queries", type=int, default=1_000, help="of million")
    parser.add_argument("--width", type=int, default=1536)
    parser.add_argument("--memory-gib", type=float, default=4.0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--folder", type=Path, default=None, help="where the file of million lies while it is used")
    parser.add_argument("--output", type=Path, default=Path("outputs/benchmarks"))
    args = parser.parse_args()
    for name in ("mining_growth.png",):
        check_file(args.output / name, "benchmark")
    torch.set_num_threads(args.threads)
    faiss.omp_set_num_threads(args.threads)
    if "compare" in args.parts:
        compare(args.rows, args.width)
    if "sampled" in args.parts:
        sampled(args.sampled_rows, args.width, args.sample)
    if "million" in args.parts:
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            million(args.candidates, args.width, args.queries, args.memory_gib, Path(folder))
    if "growth" in args.parts:
        growth(args.width, args.rows, args.output)


if __name__ == "__main__":
    main()
