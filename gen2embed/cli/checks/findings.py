"""The findings of checks: each is one line, and fine or not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from gen2embed.utils.errors import UserError
from gen2embed.utils.log import console
from gen2embed.utils.redaction import visible

State = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Finding:
    """One line of the doctor: whether it is fine, and the fact; for a warning or a problem also the remedy."""

    state: State
    text: str


def announce(step: str) -> None:
    """Print a step that may take long before it is done."""
    console.print(f"... {visible(step)}", style="dim", markup=False, highlight=False, soft_wrap=True)


def guarded(subject: str, check: Iterable[Finding]) -> Iterator[Finding]:
    """Yield the findings of a check; an error ends it, and is a problem of the subject."""
    try:
        yield from check
    except UserError as error:
        yield Finding("problem", f"{subject}: {error}")
    except Exception as error:  # a doctor who faints helps nobody
        first = next((line for line in str(error).splitlines() if line.strip()), "no message")
        yield Finding("problem", f"{subject}: unexpected {type(error).__name__}: {first}; please report it")
