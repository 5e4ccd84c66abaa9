"""Log messages and show progress on the console; silence the libraries."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

log = logging.getLogger("gen2embed")
console = Console(stderr=True)  # messages and progress; results go to standard output
DRAWN = 0.1  # seconds between two changes of a bar, so that short steps cost nothing


def quieten_libraries() -> None:
    """Silence what the libraries log about their own loading; for the entry points, not for the Python API."""
    import transformers  # noqa: PLC0415  # takes a second, which only those who load a model should wait for

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    for name in ("lightning.pytorch.utilities.rank_zero", "httpx", "httpx2"):  # the last two log every request
        logging.getLogger(name).setLevel(logging.WARNING)
    for module in ("lightning", "transformers", "peft"):
        warnings.filterwarnings("ignore", module=module)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        mean = task.completed / task.elapsed if task.elapsed else 0.0  # until rich has seen two steps
        return Text(f"{task.finished_speed or task.speed or mean:,.0f}/s")


@contextmanager
def progress(title: str, total: int, *, shown: bool = True) -> Iterator[Callable[..., None]]:
    """Show a bar with count, rate and remaining time; yields `advance(steps=1, description=None)`.

    Inside of another bar, it is drawn below.
    """
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not shown) as bar:
        task = bar.add_task(title, total=total)
        waiting, drawn = 0, time.monotonic()

        def advance(steps: int = 1, description: str | None = None) -> None:
            nonlocal waiting, drawn
            waiting += steps
            if description is not None or time.monotonic() - drawn > DRAWN:
                bar.update(task, advance=waiting, description=description)
                waiting, drawn = 0, time.monotonic()

        yield advance
        bar.update(task, advance=waiting)
