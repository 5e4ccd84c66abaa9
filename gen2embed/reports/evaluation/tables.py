"""The scores of runs on one benchmark, side by side, and how the other runs compare with the first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gen2embed.evaluation.significance import Difference, holm, mcnemar, paired_bootstrap
from gen2embed.reports.evaluation.results import Result

RESAMPLES = 10_000  # of the bootstrap


@dataclass(frozen=True)
class Compared:
    """Another run against the first.

    Attributes:
        difference: The difference to the first run, with its interval.
        p: The p of the difference; for a task that of McNemar's test, adjusted for the number of tasks.
    """

    difference: Difference
    p: float

    @property
    def significant(self) -> bool:
        return self.p < 0.05


@dataclass(frozen=True)
class Row:
    """A line of a table: the scores of each run, None where tasks were not run, and the others against the first."""

    name: str
    scores: Sequence[Mapping[str, Any] | None]
    compared: Sequence[Compared]


@dataclass(frozen=True)
class Group:
    """The tasks of a meta-task that were run, and their average."""

    average: Row
    tasks: Sequence[Row]


@dataclass(frozen=True)
class Table:
    """A benchmark's scores: by group, of further sets of tasks, and of all."""

    groups: Sequence[Group]
    averages: Sequence[Row]
    overall: Row

    @property
    def tasks(self) -> list[Row]:
        return [row for group in self.groups for row in group.tasks]


def make_table(results: Sequence[Result], seed: int) -> Table:
    """Return the scores of one benchmark by several runs; `seed` is that of the bootstrap."""
    tasks = _task_rows(results, seed)
    groups = {
        group: [row for row in tasks if results[0].scores["tasks"][row.name]["group"] == group]
        for group in results[0].scores["groups"]
    }

    def average(name: str, scores: Sequence[Mapping[str, Any] | None], members: Sequence[str]) -> Row:
        compared = []
        if scores[0] is not None:
            differences = (_difference(results[0], result, members, seed) for result in results[1:])
            compared = [Compared(difference, difference.p) for difference in differences]
        return Row(name, scores, compared)

    def each(key: str, name: str) -> list[Mapping[str, Any] | None]:
        return [result.scores[key][name] for result in results]

    # Which tasks a further average is over, its benchmark alone knows; `results.json` has its score.
    averages = [Row(name, each("averages", name), []) for name in results[0].scores["averages"]]
    overall = [result.scores["overall"] for result in results]
    return Table(
        [Group(average(name, each("groups", name), _named(rows)), rows) for name, rows in groups.items() if rows],
        averages,
        average("overall", overall, _named(tasks)),
    )


def _named(rows: Sequence[Row]) -> list[str]:
    return [row.name for row in rows]


def _task_rows(results: Sequence[Result], seed: int) -> list[Row]:
    names = list(results[0].scores["tasks"])
    compared: dict[str, list[Compared]] = {name: [] for name in names}
    for result in results[1:]:
        ps = holm([mcnemar(results[0].outcomes[name], result.outcomes[name]) for name in names])
        for name, p in zip(names, ps, strict=True):
            compared[name].append(Compared(_difference(results[0], result, [name], seed), p))
    return [Row(name, [result.scores["tasks"][name] for result in results], compared[name]) for name in names]


def _difference(first: Result, second: Result, tasks: Sequence[str], seed: int) -> Difference:
    ours, theirs = ([result.outcomes[name] for name in tasks] for result in (first, second))
    return paired_bootstrap(ours, theirs, RESAMPLES, seed)
