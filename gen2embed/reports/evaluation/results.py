"""Results of evaluation runs, read from their folders, and whether they are of the same queries."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gen2embed.evaluation.metrics import rows_right
from gen2embed.utils.errors import UserError


@dataclass(frozen=True)
class Result:
    """One benchmark of a run.

    Attributes:
        scores: The values of `results.json`.
        predictions: The columns of `predictions.parquet`, by task.
    """

    scores: Mapping[str, Any]
    predictions: Mapping[str, Mapping[str, Any]]

    @property
    def manifest(self) -> Mapping[str, Any]:
        return self.scores["manifest"]

    @cached_property
    def outcomes(self) -> Mapping[str, np.ndarray]:
        """Return by task whether each of the benchmark's rows is right, (n,) bool."""
        return {name: rows_right(columns["row"], columns["correct"]) for name, columns in self.predictions.items()}


@dataclass(frozen=True)
class EvaluationRun:
    """A run: the end of its folder's path that tells it from other runs, and its results by benchmark."""

    name: str
    results: Mapping[str, Result]


def read_runs(folders: Sequence[Path]) -> list[EvaluationRun]:
    """Return the runs in folders, whose first can be compared with each of the others.

    Raises:
        UserError: Where a folder holds no results, and where runs are not of the same queries.
    """
    runs = [EvaluationRun(name, _read(folder)) for name, folder in zip(_names(folders), folders, strict=True)]
    for run in runs[1:]:
        if lines := _differ(runs[0], run):
            raise UserError(f"{runs[0].name} and {run.name} cannot be compared query by query: {'; '.join(lines)}")
    return runs


def _names(folders: Sequence[Path]) -> list[str]:
    paths = [folder.resolve() for folder in folders]
    if len(set(paths)) < len(paths):
        raise UserError(f"a run is named twice among {', '.join(map(str, folders))}; name each once")
    last = 1
    while len({path.parts[-last:] for path in paths}) < len(paths):
        last += 1
    return ["/".join(path.parts[-last:]) for path in paths]


def _read(folder: Path) -> dict[str, Result]:
    path = folder / "results.json"
    if not path.is_file():
        raise UserError(
            f"{folder} holds no results.json of eval.py or train.py, and no clusters.parquet of mine.py; name the "
            "output_dir of a run"
        )
    scores = json.loads(path.read_text())
    if "benchmarks" in scores:
        return {name: result for part in scores["benchmarks"] for name, result in _read(folder / part).items()}
    if not {"tasks", "manifest"} <= set(scores):
        raise UserError(f"{path} holds no evaluation's results; name the output_dir of eval.py or train.py")
    return {scores["benchmark"]: Result(scores, _read_predictions(folder / "predictions.parquet", scores))}


def _read_predictions(path: Path, scores: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    if not path.is_file():
        raise UserError(f"{path} is missing; evaluate again")
    table = pq.read_table(path)
    predictions = {}
    for name, task in scores["tasks"].items():
        rows = table.filter(pc.equal(table["task"], name))
        columns: dict[str, Any] = {key: rows[key].to_numpy() for key in ("row", "correct", "pessimistic", "rank")}
        columns |= {key: rows[key].to_pylist() for key in ("top", "top_similarities")}
        if len(np.unique(columns["row"])) != task["queries"]:
            raise UserError(f"{path} is not of the results.json beside it: task {name} differs; evaluate again")
        predictions[name] = columns
    return predictions


def _differ(first: EvaluationRun, second: EvaluationRun) -> list[str]:
    """Return the differences that keep two runs from being paired, in words."""
    lines = _only("benchmark", (first, first.results), (second, second.results))
    for name in (name for name in first.results if name in second.results):
        ours, theirs = (run.results[name].scores["tasks"] for run in (first, second))
        lines += _only(f"{name}'s task", (first, ours), (second, theirs))
        for task in (task for task in ours if task in theirs):
            counts = [tasks[task]["queries"] for tasks in (ours, theirs)]
            if counts[0] != counts[1]:
                lines.append(f"{name}'s task {task} has {counts[0]} and {counts[1]} queries")
            elif ours[task].get("digest") != theirs[task].get("digest"):
                lines.append(f"{name}'s task {task} has other queries or candidates")
    return lines


def _only(kind: str, *sides: tuple[EvaluationRun, Mapping[str, Any]]) -> list[str]:
    """Return a line for each name that one of two runs lacks."""
    pairs = zip(sides, reversed(sides), strict=True)
    return [
        f"{kind} {name} is in {run.name} only"
        for (run, names), (_, known) in pairs
        for name in names
        if name not in known
    ]
