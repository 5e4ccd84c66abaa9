"""What evaluation runs left, read from their folders, and whether it is of the same queries."""

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
    """One benchmark of a run. scores: `results.json`. predictions: by task, the columns of `predictions.parquet`."""

    scores: Mapping[str, Any]
    predictions: Mapping[str, Mapping[str, Any]]

    @property
    def manifest(self) -> Mapping[str, Any]:
        return self.scores["manifest"]

    @cached_property
    def outcomes(self) -> Mapping[str, np.ndarray]:
        """By task, whether each of the benchmark's rows is right, (n,) bool."""
        return {name: rows_right(its["row"], its["correct"]) for name, its in self.predictions.items()}


@dataclass(frozen=True)
class Run:
    """A run, its results by benchmark. name: its folder, as short as tells it from the others."""

    name: str
    results: Mapping[str, Result]


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """The runs in folders, for a comparison of the first with each other.

    Raises `UserError` where a folder holds no results, and where runs are not of the same queries.
    """
    runs = [Run(name, _read(folder)) for name, folder in zip(_names(folders), folders, strict=True)]
    for other in runs[1:]:
        if said := _differ(runs[0], other):
            raise UserError(f"{runs[0].name} and {other.name} cannot be compared query by query: {'; '.join(said)}")
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
        return {name: result for its in scores["benchmarks"] for name, result in _read(folder / its).items()}
    if not {"tasks", "manifest"} <= set(scores):
        raise UserError(f"{path} holds no evaluation's results; name the output_dir of eval.py or train.py")
    return {scores["benchmark"]: Result(scores, _read_predictions(folder / "predictions.parquet", scores))}


def _read_predictions(path: Path, scores: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    if not path.is_file():
        raise UserError(f"{path} is missing; evaluate again")
    table = pq.read_table(path)
    predictions = {}
    for name, task in scores["tasks"].items():
        its = table.filter(pc.equal(table["task"], name))
        columns: dict[str, Any] = {key: its[key].to_numpy() for key in ("row", "correct", "pessimistic", "rank")}
        columns |= {key: its[key].to_pylist() for key in ("top", "top_similarities")}
        if len(np.unique(columns["row"])) != task["queries"]:
            raise UserError(f"{path} is not of the results.json beside it: task {name} differs; evaluate again")
        predictions[name] = columns
    return predictions


def _differ(first: Run, other: Run) -> list[str]:
    """What keeps two runs from being paired, in words."""
    said = _only("benchmark", first, other, first.results, other.results)
    for name in (name for name in first.results if name in other.results):
        one, two = (run.results[name].scores["tasks"] for run in (first, other))
        said += _only(f"{name}'s task", first, other, one, two)
        for task in (task for task in one if task in two):
            counts = [its[task]["queries"] for its in (one, two)]
            if counts[0] != counts[1]:
                said.append(f"{name}'s task {task} has {counts[0]} and {counts[1]} queries")
            elif one[task].get("digest") != two[task].get("digest"):
                said.append(f"{name}'s task {task} has other queries or candidates")
    return said


def _only(what: str, first: Run, other: Run, one: Mapping[str, Any], two: Mapping[str, Any]) -> list[str]:
    pairs = ((first, one, two), (other, two, one))
    return [f"{what} {name} is in {run.name} only" for run, its, others in pairs for name in its if name not in others]
