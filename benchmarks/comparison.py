"""Works by several schemes, compared: their table, and the list of speed-ups that `make bench` leaves."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table
from yardstick import REFERENCE, RIVAL, console, over, spread

from gen2embed.outputs.redacted import write_json
from gen2embed.utils.commit import git_commit

COMMIT = git_commit()  # of the code that was loaded: the checkout may change during a run


@dataclass(frozen=True)
class Compared:
    """A work by several schemes: their seconds in each round, and their differences from the plain path."""

    work: str
    seconds: Mapping[str, Sequence[float]]
    differences: Mapping[str, float | str | None]

    def over(self, base: str, ours: str) -> float:
        return over(self.seconds[base], self.seconds[ours])

    def describe(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "work": self.work,
            "schemes": {
                name: {
                    "seconds": list(seconds),
                    "median": statistics.median(seconds),
                    "spread": spread(seconds),
                    "over_reference": self.over(REFERENCE, name),
                    "over_sentence_transformers": self.over(RIVAL, name),
                    "max_difference": self.differences.get(name),
                }
                for name, seconds in self.seconds.items()
            },
        }


def say(compared: Compared) -> None:
    """Print one line as soon as a work is done, since all of them take long."""
    described = compared.describe()["schemes"]
    parts = (
        f"{name} {figures['median']:.3f} s ({figures['over_reference']:.2f})" for name, figures in described.items()
    )
    apart = (
        f"{difference}" if isinstance(difference, str) else f"{difference:.1e}"
        for difference in compared.differences.values()
    )
    console.print(f"{compared.work}: {', '.join(parts)}; differences {', '.join(apart)}")


def show(comparisons: Sequence[Compared], title: str, clock: str, difference: str) -> None:
    """Print works and schemes as one table."""
    table = Table(title=f"{title}; commit {COMMIT}")
    for column in ("work", "scheme", clock, "spread", "over reference", "over sentence-transformers", difference):
        table.add_column(column, justify="left" if column in ("work", "scheme") else "right")
    for compared in comparisons:
        described = compared.describe()["schemes"]
        for index, (name, figures) in enumerate(described.items()):
            apart = figures["max_difference"]
            table.add_row(
                "" if index else compared.work,
                name,
                f"{figures['median']:.3f}",
                f"±{figures['spread']:.0%}",
                f"{figures['over_reference']:.2f}",
                f"{figures['over_sentence_transformers']:.2f}",
                "" if apart is None else apart if isinstance(apart, str) else f"{apart:.1e}",
            )
        table.add_section()
    console.print(table)


def update_speed(file: Path, works: Mapping[str, tuple[Compared, str]]) -> None:
    """Put works into the list that `make bench` leaves, in place of earlier ones of the same name.

    Args:
        file: The list, which need not exist.
        works: The comparison of each work, and which of its schemes counts as ours, by the work's name.
    """
    earlier = json.loads(file.read_text()) if file.is_file() else []
    rows = {row["work"]: row for row in earlier}
    for name, (compared, ours) in works.items():
        rows[name] = {
            "work": name,
            "over_reference": compared.over(REFERENCE, ours),
            "over_sentence_transformers": compared.over(RIVAL, ours),
            "max_difference": compared.differences[ours],
        }
    write_json(file, list(rows.values()), by="benchmark")
