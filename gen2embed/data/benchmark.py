"""A benchmark that was read, independent of the format of its files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gen2embed.data.rows import known_names
from gen2embed.types import ImagePart, Policy, RankingTask
from gen2embed.utils.errors import UserError


@dataclass(frozen=True)
class ModelFacts:
    """Facts of the scored model, for a score sheet.

    Args:
        name: The folder or hub id of the checkpoint.
        adapter: The digest of its adapter; None without one.
        model_type: The architecture, by transformers' name.
        parameters: Their number.
        dim: The length of a vector.
        max_length: The most tokens of an input.
    """

    name: str
    adapter: str | None
    model_type: str
    parameters: int
    dim: int
    max_length: int


ScoreSheet = Callable[[Mapping[str, Any], ModelFacts], Mapping[str, Any]]  # from the scores to JSON values


@dataclass(frozen=True)
class Benchmark:
    """Tasks to rank, and how their scores are averaged.

    Args:
        name: The benchmark.
        tasks: Its tasks.
        groups: The names of the tasks of each meta-task; every task is in one.
        averages: The names of the tasks of further averages.
        roots: The folders in which pictures were looked for.
        resolution: The resolution policy of the benchmark's published runs; None for the run's own.
        score_sheets: Further files that a run writes beside its results, by name.
    """

    name: str
    tasks: tuple[RankingTask, ...]
    groups: Mapping[str, Sequence[str]]
    averages: Mapping[str, Sequence[str]] = field(default_factory=dict)
    roots: Sequence[Path] = ()
    resolution: Policy | None = None
    score_sheets: Mapping[str, ScoreSheet] = field(default_factory=dict)

    @property
    def pictures(self) -> Iterator[ImagePart]:
        """The pictures of all items."""
        return (picture for task in self.tasks for item in task.items() for picture in item.pictures)


def list_benchmarks(benchmarks: Benchmark | Mapping[str, Benchmark] | None) -> list[Benchmark]:
    """Return the benchmarks that a configuration instantiates to: one, several by name, or none."""
    return [benchmarks] if isinstance(benchmarks, Benchmark) else list((benchmarks or {}).values())


def task_digest(task: RankingTask) -> str:
    """Return a digest of a task: its texts, the file names of its pictures, its choices and grades."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(json.dumps([[item.portable for item in side] for side in (task.queries, task.candidates)]).encode())
    for choices, grades in zip(task.choices, task.relevance, strict=True):
        digest.update(np.asarray(choices, np.int64).tobytes() + np.asarray(grades, np.float64).tobytes())
    return digest.hexdigest()


def choose_tasks(benchmark: str, known: Sequence[str], subsets: Sequence[str] | None) -> list[str]:
    """Return the chosen names in the order of the known ones; raises `UserError` for none and for unknown names."""
    chosen = known_names(f"benchmark {benchmark}", "task", known, subsets)
    if not chosen:
        raise UserError(
            f"benchmark {benchmark} is empty: benchmark.subsets={list(subsets or ())} leaves no task of {len(known)}"
        )
    return chosen
