"""What a benchmark is once it is read, whatever its files look like."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gen2embed.data.rows import known_names
from gen2embed.images import Policy
from gen2embed.types import Picture, RankingTask, UserError


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
    def pictures(self) -> Iterator[Picture]:
        return (picture for task in self.tasks for item in task.items() for picture in item.pictures)


def choose(benchmark: str, known: Sequence[str], subsets: Sequence[str] | None) -> list[str]:
    """The chosen ones of the known names, in their order; `UserError` for none and for unknown ones."""
    chosen = known_names(f"benchmark {benchmark}", "task", known, subsets)
    if not chosen:
        raise UserError(
            f"benchmark {benchmark} is empty: benchmark.subsets={list(subsets or ())} leaves no task of {len(known)}"
        )
    return chosen
