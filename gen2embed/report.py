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
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from lightning.pytorch.loggers import Logger
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from gen2embed import __version__
from gen2embed.data.batches import Share
from gen2embed.data.benchmark import Benchmark
from gen2embed.data.datamodules import Collate
from gen2embed.encoder.adapter import matched
from gen2embed.encoder.embedder import Embedder
from gen2embed.encoder.engine import Encoded, Engine
from gen2embed.files import write_atomic
from gen2embed.presets import PACKAGE
from gen2embed.types import Pair

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


def log_scores(loggers: Sequence[Logger], scores: Sequence[Mapping[str, Any]], config: Mapping[str, Any]) -> None:
    for logger in loggers:
        logger.log_hyperparams(dict(config))
        logger.log_metrics({name: value for its in scores for name, value in flat(its).items()})
        logger.finalize("success")


def flat(scores: Mapping[str, Any]) -> dict[str, float]:
    """Scores as a logger takes them: `world/shape`, `world/vqa`, `world/overall`."""
    named = {**scores["tasks"], **scores["groups"], **scores["averages"], "overall": scores["overall"]}
    return {f"{scores['benchmark']}/{name}": score["precision@1"] for name, score in named.items() if score}


def summary_table(embedder: Embedder, benchmarks: Sequence[Benchmark], engine: Engine, folder: Path) -> Table:
    """What is about to be evaluated."""
    rows = _embedder_rows(embedder)
    for benchmark in benchmarks:
        sides = [[getattr(task, side) for task in benchmark.tasks] for side in ("queries", "candidates")]
        queries, candidates = (sum(map(len, items)) for items in sides)
        at = f", at resolution {benchmark.resolution}" if benchmark.resolution else ""
        said = f"{benchmark.name}: {len(benchmark.tasks)} tasks, {queries:,} queries, {candidates:,} candidates{at}"
        rows.append(("benchmark", said))
    rows.append(("engine", f"batches of {engine.batch_size}, store {engine.store or 'none'}"))
    return _two_columns("evaluation", [*rows, ("output", str(folder))])


def training_table(embedder: Embedder, share: Share, collate: Collate, steps: int, folder: Path) -> Table:
    """What is about to be trained, and how a batch comes about."""
    parameters = list(embedder.backbone.full.parameters())
    trained = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    frozen = sum(parameter.numel() for parameter in parameters) - trained
    plan = share.plan
    held = len({row for members in plan.members for row in members})
    own = plan.pairs // plan.ranks
    chunks = [(own, collate.query_chunk, "queries"), (own, collate.candidate_chunk, "candidates")]
    subsets = "mixed subsets" if plan.mixed else "one subset"
    rows = [
        *_embedder_rows(embedder),
        ("trained", f"{trained:,} parameters; {frozen:,} are frozen"),
        *((f"  adapter, {tower}", modules) for tower, modules in matched(embedder.backbone).items()),
        ("data", f"{plan.rows:,} pairs, {held:,} of them in {len(plan.members):,} clusters"),
        *((f"  weight, {name}", f"{weight:.3g}") for name, weight in (plan.weights or {}).items()),
        ("batch", f"{plan.pairs} pairs a step, of {subsets}; {plan.pairs - 1} negatives a query"),
        ("  ranks", f"{plan.ranks}, with {own} pairs each"),
        ("  chunks", "; ".join(f"{-(-n // size)} or more of at most {size} {what}" for n, size, what in chunks)),
        ("steps", f"{steps:,}, about {steps * plan.pairs / plan.rows:.1f} epochs"),
        ("output", str(folder)),
    ]
    return _two_columns("training", rows)


def cluster_table(table: pa.Table, pairs: Sequence[Pair]) -> Table:
    """Clusters and coverage by subset."""
    out = Table(title="clusters")
    for name in ("subset", "rows", "clusters", "mean size", "covered", "to positives", "to owners"):
        out.add_column(name, justify="left" if name == "subset" else "right")
    for subset in dict.fromkeys(pair.subset for pair in pairs):
        its = table.filter(pc.equal(table["subset"].cast(pa.string()), subset))
        rows = sum(pair.subset == subset for pair in pairs)
        clusters, covered = (pc.count_distinct(its[name]).as_py() for name in ("cluster", "row"))
        owners = its.filter(pc.greater(its["position"], 0))
        means = [pc.mean(owners[name]).as_py() for name in ("similarity", "owner_similarity")]
        out.add_row(
            subset,
            f"{rows:,}",
            f"{clusters:,}",
            f"{its.num_rows / clusters:.1f}" if clusters else "-",
            f"{100 * covered / rows:.0f} %",
            *("-" if mean is None else f"{mean:.3f}" for mean in means),
        )
    return out


def _embedder_rows(embedder: Embedder) -> list[tuple[str, str]]:
    backbone, prompt, resolution = embedder.backbone, embedder.build.prompt, embedder.build.resolution
    budget = [f"{key} {getattr(resolution, key)}" for key in ("min_pixels", "max_pixels") if getattr(resolution, key)]
    size = f"{backbone.parameters / 1e6:,.1f} M parameters, {backbone.dtype}, {backbone.device}"
    suffixes = ((role, kind, text) for role, texts in prompt.suffix.items() for kind, text in texts.items())
    return [
        ("model", f"{backbone.name}, {size}"),
        ("prompt", f"convention {prompt.convention}"),
        *((f"  system, {role}", repr(text)) for role, text in prompt.system.items()),
        *((f"  suffix, {role}, {kind}", repr(text)) for role, kind, text in suffixes),
        ("resolution", ", ".join([resolution.policy, *budget, f"backend {resolution.backend}"])),
    ]


def _two_columns(title: str, rows: Sequence[tuple[str, str]]) -> Table:
    table = Table(title=title, show_header=False)
    for row in rows:
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
    for name, average in scores["averages"].items():
        table.add_row(name, "", "", *(_cells(average) if average else ["-", "incomplete", "", ""]), style="bold")
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
