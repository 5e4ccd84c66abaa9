"""What a run leaves for people and programs: results, predictions, manifest, tables and charts, from results alone."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from gen2embed import __version__
from gen2embed.data.mmeb import Benchmark
from gen2embed.encoder.embedder import Embedder
from gen2embed.encoder.engine import Encoded, Engine
from gen2embed.encoder.store import write_atomic
from gen2embed.presets import PACKAGE

LIBRARIES = ("torch", "transformers", "lightning", "hydra-core", "numpy", "pillow")


def manifest(config: Mapping[str, Any], fingerprint: Mapping[str, Any], timing: Mapping[str, Any]) -> dict[str, Any]:
    """What makes a result reproducible."""
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "config": config,
        "fingerprint": fingerprint,
        "seed": config.get("seed"),
        "git_commit": git_commit(),
        "versions": {
            "gen2embed": __version__,
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in LIBRARIES},
        },
        "hardware": {
            "machine": platform.machine(),
            "cpus": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "gpus": gpus,
        },
        **timing,
    }


def timing(encoded: Sequence[Encoded], wall_seconds: float) -> dict[str, Any]:
    """Wall time, and the encoding's rate over the items that were computed."""
    computed, seconds = sum(part.computed for part in encoded), sum(part.seconds for part in encoded)
    return {
        "wall_seconds": wall_seconds,
        "items_computed": computed,
        "items_reused": sum(part.reused for part in encoded),
        "items_per_second": computed / seconds if computed else None,
    }


def git_commit() -> str | None:
    """The commit of the code that runs, with `-dirty` if files differ from it; None outside a checkout."""
    command = ["git", "-C", str(PACKAGE), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def write_json(path: Path, value: Any) -> None:
    text = json.dumps(value, indent=2, default=str)
    write_atomic(path, lambda file: file.write(text.encode()))


def write_results(folder: Path, scores: Mapping[str, Any], predictions: pa.Table, run: Mapping[str, Any]) -> None:
    """Leave `results.json`, `manifest.json`, `predictions.parquet` and `scores.png` in `folder`."""
    write_atomic(folder / "predictions.parquet", lambda file: pq.write_table(predictions, file))
    write_json(folder / "manifest.json", run)
    chart(scores).savefig(folder / "scores.png", dpi=150)
    write_json(folder / "results.json", {**scores, "manifest": run})


def flat(scores: Mapping[str, Any]) -> dict[str, float]:
    """Scores as a logger takes them: `world/shape`, `world/vqa`, `world/overall`."""
    named = {**scores["tasks"], **scores["groups"], "overall": scores["overall"]}
    return {f"{scores['benchmark']}/{name}": score["precision@1"] for name, score in named.items() if score}


def summary_table(embedder: Embedder, benchmark: Benchmark, engine: Engine, folder: Path) -> Table:
    """What is about to run."""
    backbone, prompt, resolution = embedder.backbone, embedder.build.prompt, embedder.build.resolution
    queries, candidates = (
        sum(len(getattr(task, side)) for task in benchmark.tasks) for side in ("queries", "candidates")
    )
    budget = [
        f"{name} {getattr(resolution, name)}" for name in ("min_pixels", "max_pixels") if getattr(resolution, name)
    ]
    table = Table(title="evaluation", show_header=False)
    for row in (
        (
            "model",
            f"{backbone.name}, {backbone.parameters / 1e6:,.1f} M parameters, {backbone.dtype}, {backbone.device}",
        ),
        ("prompt", f"convention {prompt.convention}"),
        *((f"  system, {role}", repr(text)) for role, text in prompt.system.items()),
        *(
            (f"  suffix, {role}, {kind}", repr(text))
            for role, texts in prompt.suffix.items()
            for kind, text in texts.items()
        ),
        ("resolution", ", ".join([resolution.policy, *budget, f"backend {resolution.backend}"])),
        (
            "benchmark",
            f"{benchmark.name}: {len(benchmark.tasks)} tasks, {queries:,} queries, {candidates:,} candidates",
        ),
        ("engine", f"batches of {engine.batch_size}, store {engine.store or 'none'}"),
        ("output", str(folder)),
    ):
        table.add_row(*row)
    return table


def score_table(scores: Mapping[str, Any]) -> Table:
    """Tasks, groups and the overall average, in percent."""
    table = Table(title=f"{scores['benchmark']}: precision@1 in percent")
    for name in ("task", "queries", "candidates", "score", "95 % interval", "pessimistic", "chance"):
        table.add_column(name, justify="left" if name == "task" else "right")
    for group, average in scores["groups"].items():
        members = {name: task for name, task in scores["tasks"].items() if task["group"] == group}
        for name, task in members.items():
            size = task["candidates"]
            table.add_row(
                name,
                str(task["queries"]),
                str(size) if isinstance(size, int) else f"{size[0]}-{size[1]}",
                *_cells(task),
            )
        if members:
            table.add_row(group, "", "", *_average_cells(average, len(members)), style="bold", end_section=True)
    table.add_row("overall", "", "", *_average_cells(scores["overall"], len(scores["tasks"])), style="bold")
    return table


def _cells(score: Mapping[str, Any]) -> list[str]:
    low, high = score["ci95"]
    interval = f"{100 * low:.1f} - {100 * high:.1f}"
    return [
        f"{100 * score['precision@1']:.1f}",
        interval,
        *(f"{100 * score[key]:.1f}" for key in ("pessimistic", "chance")),
    ]


def _average_cells(average: Mapping[str, Any] | None, present: int) -> list[str]:
    return _cells(average) if average else ["-", f"only {present} tasks", "", ""]


def print_table(table: Table) -> None:
    """To standard output, wide enough where that is no terminal."""
    console = Console()
    (console if console.is_terminal else Console(width=120)).print(table)


def chart(scores: Mapping[str, Any]) -> Figure:
    """Horizontal bars: each task's score with its interval, coloured by group, chance marked."""
    tasks = scores["tasks"]
    colours = dict(zip(scores["groups"], mpl.color_sequences["tab10"], strict=False))
    figure = Figure(figsize=(7, 1.2 + 0.3 * len(tasks)), layout="constrained")
    axes = figure.subplots()
    for row, (name, task) in enumerate(tasks.items()):
        score, (low, high) = task["precision@1"], task["ci95"]
        errors = [[max(0, score - low)], [max(0, high - score)]]
        axes.barh(row, score, xerr=errors, color=colours[task["group"]], ecolor="0.3", capsize=2, label=name)
        axes.plot([task["chance"]] * 2, [row - 0.4, row + 0.4], color="black", linestyle=":")
    axes.set_yticks(range(len(tasks)), list(tasks))
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel("precision@1 (bars: 95 % interval; dotted: chance)")
    overall = scores["overall"]
    axes.set_title(f"{scores['benchmark']}" + (f", overall {overall['precision@1']:.3f}" if overall else ""))
    present = dict.fromkeys(task["group"] for task in tasks.values())
    handles = [mpl.patches.Patch(color=colours[group], label=group) for group in present]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
