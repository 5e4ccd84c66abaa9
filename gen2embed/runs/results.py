"""Write the results of a run: scores, predictions, manifest and chart; and log them."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from lightning.pytorch.loggers import Logger
from matplotlib.figure import Figure

from gen2embed import __version__
from gen2embed.encoding.engine import Encoded
from gen2embed.encoding.truncation import TruncationCount
from gen2embed.outputs.redacted import write_json
from gen2embed.utils.commit import git_commit
from gen2embed.utils.files import write_atomic
from gen2embed.utils.redaction import redacted

LIBRARIES = ("torch", "transformers", "lightning", "hydra-core", "numpy", "pillow")


def manifest(config: Mapping[str, Any], fingerprint: Mapping[str, Any], timing: Mapping[str, Any]) -> dict[str, Any]:
    """Return what makes a result reproducible: configuration, fingerprint, seed, commit, versions and hardware.

    Args:
        config: The configuration of the run.
        fingerprint: The fingerprint of the embedder.
        timing: Further entries, such as those of `timing`.
    """
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "config": config,
        "fingerprint": fingerprint,
        "seed": config.get("seed"),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
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
    """Return the wall time, the numbers of items, and the rate of encoding over the items that were computed.

    Args:
        encoded: The vectors that the run encoded.
        wall_seconds: The seconds since the start of the run.
    """
    computed, seconds = sum(part.computed for part in encoded), sum(part.seconds for part in encoded)
    return {
        "wall_seconds": wall_seconds,
        "items_computed": computed,
        "items_reused": sum(part.reused for part in encoded),
        "items_per_second": computed / seconds if computed else None,
        "items_cut": sum((part.truncated for part in encoded), TruncationCount()).describe(),
    }


def write_results(folder: Path, scores: Mapping[str, Any], predictions: pa.Table, run: Mapping[str, Any]) -> None:
    """Write `results.json`, `manifest.json`, `predictions.parquet` and `scores.png` in `folder`."""
    write_atomic(folder / "predictions.parquet", lambda file: pq.write_table(predictions, file))
    write_json(folder / "manifest.json", run)
    write_atomic(folder / "scores.png", lambda file: chart(scores).savefig(file, dpi=150))
    write_json(folder / "results.json", {**scores, "manifest": run})


def log_scores(loggers: Sequence[Logger], scores: Sequence[Mapping[str, Any]], config: Mapping[str, Any]) -> None:
    """Log the scores of several benchmarks at the end of a run."""
    log_values(
        loggers, {name: value for benchmark in scores for name, value in logged_scores(benchmark).items()}, config
    )


def log_values(loggers: Sequence[Logger], values: Mapping[str, float | None], config: Mapping[str, Any]) -> None:
    """Log the configuration of a run, and its values that are not None, at its end."""
    for logger in loggers:
        logger.log_hyperparams(redacted(config))
        logger.log_metrics({name: value for name, value in values.items() if value is not None})
        logger.finalize("success")


def logged_scores(scores: Mapping[str, Any]) -> dict[str, float]:
    """Return precision@1 by a logger's names: `world/shape`, `world/vqa`, `world/overall`."""
    entries = {**scores["tasks"], **scores["groups"], **scores["averages"], "overall": scores["overall"]}
    return {f"{scores['benchmark']}/{name}": score["precision@1"] for name, score in entries.items() if score}


def chart(scores: Mapping[str, Any]) -> Figure:
    """Return a figure of horizontal bars: the score of each task with its interval, coloured by group, and chance."""
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
