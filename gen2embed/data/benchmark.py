"""What a benchmark is once it is read, whatever its files look like."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from gen2embed.data.rows import known_names
from gen2embed.types import ImagePart, Policy, RankingTask
from gen2embed.utils.errors import UserError


@dataclass(frozen=True)
class Benchmark:
    """Tasks to rank, and how their scores are averaged.

    groups: the tasks of each meta-task, every task in one. averages: further sets of tasks to average over.
    roots: the folders that pictures were looked for in.
    resolution: the policy of the benchmark's published runs, in place of the run's own; None for the run's.
    """

    name: str
    tasks: tuple[RankingTask, ...]
    groups: Mapping[str, Sequence[str]]
    averages: Mapping[str, Sequence[str]] = field(default_factory=dict)
    roots: Sequence[Path] = ()
    resolution: Policy | None = None

    @property
    def pictures(self) -> Iterator[ImagePart]:
        return (picture for task in self.tasks for item in task.items() for picture in item.pictures)


def several(made: Benchmark | Mapping[str, Benchmark] | None) -> list[Benchmark]:
    """The benchmarks that a configuration makes: one, several by name, or none."""
    return [made] if isinstance(made, Benchmark) else list((made or {}).values())


def task_digest(task: RankingTask) -> str:
    """A digest of what is asked and what is right: texts, the pictures' names below any root, choices and grades."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(json.dumps([[item.portable for item in side] for side in (task.queries, task.candidates)]).encode())
    for choices, grades in zip(task.choices, task.relevance, strict=True):
        digest.update(np.asarray(choices, np.int64).tobytes() + np.asarray(grades, np.float64).tobytes())
    return digest.hexdigest()


def choose(benchmark: str, known: Sequence[str], subsets: Sequence[str] | None) -> list[str]:
    """The chosen ones of the known names, in their order; `UserError` for none and for unknown ones."""
    chosen = known_names(f"benchmark {benchmark}", "task", known, subsets)
    if not chosen:
        raise UserError(
            f"benchmark {benchmark} is empty: benchmark.subsets={list(subsets or ())} leaves no task of {len(known)}"
        )
    return chosen
