"""Whether a long training holds: memory and open files stay flat, and every loss is finite.

    python benchmarks/soak.py [--steps 2000] [--output outputs/benchmarks]

Trains the embedded model on two gloo processes with a loader's worker each, a checkpoint every 100 steps and a
validation every 500. Of each rank and its worker, every two seconds: resident memory (of pages that they share, twice:
that a page is copied when one of them writes to it is no leak) and open files. Growth is the median of the last quarter
of the training over that of the second quarter, when every cache is full. Draws soak.png and exits with 1 if something
grew by more than 2 %, a file was left open, or a step has no finite loss.
"""

from __future__ import annotations

import argparse
import csv
import math
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
from comparison import COMMIT
from matplotlib.figure import Figure
from rich.table import Table
from yardstick import console

from gen2embed.outputs.claims import is_run
from gen2embed.outputs.paths import check_file, write_file
from gen2embed.outputs.redacted import write_json

TRAIN = Path(__file__).resolve().parent.parent / "train.py"
SETTINGS = [
    "strategy=ddp", "trainer=cpu", "trainer.devices=2", "mining=random", "mining.top_k=3", "batch.pairs=16",
    "batch.workers=1", "data.rows=100", "data.subsets=[shape,vqa_colour,t2i]", "benchmark=none", "optim=cosine",
    "optim.optimizer.lr=1e-4", "trainer.log_every_n_steps=1", "callbacks.checkpoints.every_n_steps=100",
    "validation=world", "validation.every_n_steps=500", "validation.benchmark.queries=20", "resume=never",
]  # fmt: skip
GROWTH = 0.02
RANKS = ("0", "1")


@dataclass
class Series:
    """A rank's samples: seconds since the start, MiB, open files."""

    seconds: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)
    files: list[int] = field(default_factory=list)

    def quarter(self, values: list[float], number: int, begin: float) -> float:
        """Return the median in a quarter (0 to 3) of the time between `begin` and the last sample."""
        length = (self.seconds[-1] - begin) / 4
        first = begin + number * length
        window = [value for at, value in zip(self.seconds, values, strict=True) if first <= at <= first + length]
        return float(np.median(window))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--output", type=Path, default=Path("outputs/benchmarks"))
    args = parser.parse_args()
    for name in ("soak.json", "soak.png"):
        check_file(args.output / name, "benchmark")
    run = args.output / "soak"
    command = [sys.executable, str(TRAIN), *SETTINGS, f"trainer.max_steps={args.steps}", f"output_dir={run}"]
    ranks, begin = watch(command, run / "metrics.csv")
    losses = read_losses(run / "metrics.csv")
    finite = sum(map(math.isfinite, losses))
    growths = {rank: growth(series, begin) for rank, series in ranks.items()}
    show(growths, len(losses), finite, ranks["0"].seconds[-1] - begin)
    chart = draw(ranks, losses, begin)
    write_file(args.output / "soak.png", "benchmark", lambda file: chart.savefig(file, dpi=150))
    arguments = {"steps": args.steps, "settings": SETTINGS}
    result = {"commit": COMMIT, "arguments": arguments, "ranks": growths, "losses": finite}
    write_json(args.output / "soak.json", result, by="benchmark")
    flat = all(grown["memory"][1] <= grown["memory"][0] * (1 + GROWTH) and grown["files"][1] <= grown["files"][0]
               for grown in growths.values())  # fmt: skip
    sys.exit(not (flat and finite == len(losses) == args.steps))


def watch(command: list[str], metrics: Path) -> tuple[dict[str, Series], float]:
    """Sample a training of two ranks until it ends; and when its first steps were logged, in seconds."""
    ranks = {rank: Series() for rank in RANKS}
    if is_run(metrics.parent):
        metrics.unlink(missing_ok=True)
    start, begin = time.monotonic(), math.inf
    with subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}) as root:
        while root.poll() is None:
            now = time.monotonic() - start
            if metrics.is_file():
                begin = min(begin, now)
            for rank, (memory, files) in held(psutil.Process(root.pid)).items():
                ranks[rank].seconds.append(now)
                ranks[rank].memory.append(memory)
                ranks[rank].files.append(files)
            time.sleep(2)
    if root.returncode:
        sys.exit(f"the training failed with exit code {root.returncode}")
    return ranks, begin


def held(root: psutil.Process) -> dict[str, tuple[float, int]]:
    """Return MiB and open files of each rank with its workers; a process that ends meanwhile holds nothing."""
    out = dict.fromkeys(RANKS, (0.0, 0))
    try:
        family = [root, *root.children(recursive=True)]
    except psutil.Error:
        return {}
    for process in family:
        try:
            rank = process.environ().get("LOCAL_RANK", "0")  # as it was started with: of rank 1 and its workers
            memory, files = process.memory_info().rss / 2**20, process.num_fds()
        except psutil.Error:
            continue
        out[rank] = (out[rank][0] + memory, out[rank][1] + files)
    return out


def read_losses(file: Path) -> list[float]:
    with file.open(newline="") as lines:
        return [float(row["loss"]) for row in csv.DictReader(lines) if row.get("loss")]


def growth(series: Series, begin: float) -> dict[str, tuple[float, float]]:
    """Return the medians of memory (MiB) and open files in the second and in the last quarter."""
    columns = {"memory": series.memory, "files": [float(count) for count in series.files]}
    return {
        name: (series.quarter(values, 1, begin), series.quarter(values, 3, begin)) for name, values in columns.items()
    }


def show(growths: dict[str, dict[str, tuple[float, float]]], steps: int, finite: int, seconds: float) -> None:
    table = Table(title=f"{steps} steps in {seconds / 60:.1f} min, {finite} losses finite; commit {COMMIT}")
    for column in ("rank", "held", "second quarter", "last quarter", "growth"):
        table.add_column(column, justify="left" if column in ("rank", "held") else "right")
    for rank, grown in growths.items():
        for name, (before, after) in grown.items():
            unit = "memory, MiB" if name == "memory" else "open files"
            table.add_row(rank, unit, f"{before:.0f}", f"{after:.0f}", f"{after / before - 1:+.1%}")
    console.print(table)


def draw(ranks: dict[str, Series], losses: list[float], begin: float) -> Figure:
    figure = Figure(figsize=(8, 6), layout="constrained")
    memory, files, loss = figure.subplots(3, 1)
    for rank, series in ranks.items():
        minutes = [(at - begin) / 60 for at in series.seconds]
        memory.plot(minutes, series.memory, label=f"rank {rank} and its worker")
        files.plot(minutes, series.files, label=f"rank {rank} and its worker")
    loss.plot(np.arange(1, len(losses) + 1), losses, linewidth=0.6, color="0.4")
    memory.set(ylabel="memory, MiB", xlabel="minutes since the first step", ylim=(0, None))
    files.set(ylabel="open files", xlabel="minutes since the first step", ylim=(0, None))
    loss.set(ylabel="loss", xlabel="step", ylim=(0, None))
    memory.legend(frameon=False)
    for axes in (memory, files, loss):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


if __name__ == "__main__":
    main()
