"""Messages and progress on the console, and the one place that quietens the libraries."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import transformers
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TimeRemainingColumn
from rich.text import Text

log = logging.getLogger("gen2embed")
console = Console(stderr=True)  # messages and progress; results go to standard output


def quieten_libraries() -> None:
    """Silence what the libraries say about their own loading; for the entry points, not for the Python API."""
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    for module in ("lightning", "transformers", "peft"):
        warnings.filterwarnings("ignore", module=module)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed or 0:,.0f}/s")


@contextmanager
def progress(title: str, total: int, *, shown: bool = True) -> Iterator[Callable[..., None]]:
    """A bar with count, rate and remaining time; yields `advance(steps=1, description=None)`."""
    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not shown) as bar:
        task = bar.add_task(title, total=total)

        def advance(steps: int = 1, description: str | None = None) -> None:
            bar.update(task, advance=steps, description=description)

        yield advance
