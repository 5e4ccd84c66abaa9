"""Figures, each on disk as soon as it is known, and the rows that measure them, one after the other, whatever fails."""

from __future__ import annotations

import gc
import json
import math
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch

FIGURES, REPORT, ERRORS = "figures.jsonl", "report.md", "errors.txt"
AGAIN = 5.0  # seconds after which a cut that was lost, in a destructor say, is tried again


class OverBudgetError(BaseException):
    """A row takes longer than its budget. No `except Exception` on the way stops it."""


@dataclass(frozen=True)
class Figure:
    """A measured value.

    Args:
        row: The number of the plan's row.
        name: What was measured.
        value: Its value.
        unit: The unit.
        goal: What the value should be, in words; empty for none.
        met: Whether it is; None without a goal.
        at: The seconds since the start of the run.
    """

    row: int
    name: str
    value: float | str
    unit: str
    goal: str
    met: bool | None
    at: float

    @property
    def cells(self) -> list[str]:
        """Return the cells of its line in the table."""
        value = self.value if isinstance(self.value, str) else readable(self.value)
        met = "" if self.met is None else "yes" if self.met else "NO"
        return [str(self.row), self.name, f"{value} {self.unit}".strip(), self.goal, met]


def readable(value: float) -> str:
    """Return a number with three or four digits that count."""
    if not math.isfinite(value):
        return str(value)
    if value == int(value) and abs(value) < 1e7:
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


@dataclass(frozen=True)
class Row:
    """A row of the plan, with its budget in seconds; `run` takes the bench and records what it measures."""

    number: int
    title: str
    seconds: float
    run: Callable[[Any], object]


class Recorder:
    """Prints figures and lines, and appends them to figures.jsonl; errors.txt has tracebacks, report.md the table."""

    def __init__(self, folder: Path, header: Mapping[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.header = folder, dict(header)
        self.figures: list[Figure] = []
        self.notes: list[tuple[int, str]] = []
        self.row, self._started = 0, time.perf_counter()
        self._append({"machine": self.header})
        print("\n".join(f"{name}: {value}" for name, value in self.header.items()), flush=True)

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._started

    def add(
        self,
        name: str,
        value: float | str | bool,
        unit: str = "",
        *,
        at_least: float | None = None,
        at_most: float | None = None,
        expected: str | bool | None = None,
    ) -> None:
        """Record a figure of the row that runs, with the goal that it is at least, at most, or equal to something."""
        goal, met = "", None
        if at_least is not None:
            goal, met = f"at least {readable(at_least)}", bool(value >= at_least)  # type: ignore[operator]
        elif at_most is not None:
            goal, met = f"at most {readable(at_most)}", bool(value <= at_most)  # type: ignore[operator]
        elif expected is not None:
            goal, met = _word(expected), bool(value == expected)
        figure = Figure(self.row, name, _word(value), unit, goal, met, round(self.elapsed, 2))
        self.figures.append(figure)
        self._append(asdict(figure))
        shown = figure.cells
        goal = f"   goal: {shown[3]}, met: {shown[4]}" if figure.goal else ""
        print(f"  {shown[1]}: {shown[2]}{goal}", flush=True)

    def note(self, text: str) -> None:
        """Record a line of the row that runs."""
        self.notes.append((self.row, text))
        self._append({"row": self.row, "note": text, "at": round(self.elapsed, 2)})
        print(f"  {text}", flush=True)

    def fail(self, error: BaseException, outcome: str = "failed") -> None:
        """Record an error: its first line, and its traceback in `errors.txt`."""
        with (self.folder / ERRORS).open("a") as file:
            file.write(f"row {self.row}: {outcome}\n{''.join(traceback.format_exception(error))}\n")
        first = next((line for line in str(error).splitlines() if line.strip()), "")
        self.note(f"{outcome}: {f'{type(error).__name__}: {first}'[:300]} (traceback in errors.txt)")

    def write_report(self) -> str:
        """Write the table as far as it is known to `report.md`; returns it."""
        lines = [f"- {name}: {value}" for name, value in self.header.items()]
        lines += ["", "| row | figure | value | goal | met |", "| --- | --- | --- | --- | --- |"]
        lines += ["| " + " | ".join(figure.cells) + " |" for figure in self.figures]
        lines += ["", *(f"- row {row}: {text}" for row, text in self.notes)]
        text = "\n".join(lines) + "\n"
        unfinished = self.folder / ".report.md"
        unfinished.write_text(text)
        unfinished.replace(self.folder / REPORT)
        return text

    def _append(self, value: Mapping[str, Any]) -> None:
        with (self.folder / FIGURES).open("a") as file:
            file.write(json.dumps(value, default=str) + "\n")
            file.flush()
            os.fsync(file.fileno())


def is_free(folder: Path) -> bool:
    """Return whether a recorder may write to a folder: it has none of its files, or another recorder wrote them."""
    figures = folder / FIGURES
    if not figures.exists():
        return not folder.exists() or (
            folder.is_dir() and not any((folder / name).exists() for name in (REPORT, ERRORS))
        )
    with figures.open(errors="replace") as file:
        return file.readline().startswith('{"machine": ')


def _word(value: Any) -> Any:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else value


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise `OverBudgetError` in the main thread once the seconds are over, wherever it is."""

    def cut(_: int, frame: FrameType | None) -> None:
        raise OverBudgetError

    before = signal.signal(signal.SIGALRM, cut)
    signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def free_memory() -> None:
    """Give back what no longer has an owner, on the device, too."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
        torch.cuda.empty_cache()


def run_rows(rows: Sequence[Row], bench: Any, recorder: Recorder) -> None:
    """Run each row within its budget; one that fails or is cut says so, and the next one has the memory it held."""
    for row in rows:
        recorder.row = row.number
        print(f"\nrow {row.number}: {row.title} ({recorder.elapsed:.0f} s since the start)", flush=True)
        began = recorder.elapsed
        try:
            with time_limit(row.seconds):
                row.run(bench)
        except OverBudgetError as error:
            recorder.fail(error, f"cut, over its budget of {row.seconds:g} s; what is above was measured")
        except Exception as error:
            recorder.fail(error)
        try:
            free_memory()
        except Exception as error:  # a device that is lost says so again
            recorder.fail(error, "the device's memory could not be given back")
        recorder.add("seconds of the row", recorder.elapsed - began, "s", at_most=row.seconds)
        recorder.write_report()
