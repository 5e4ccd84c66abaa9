"""What a check finds: one line, and whether it is fine."""

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
    """said: what was found, and of a warning or a problem the remedy."""

    state: State
    said: str


def announce(step: str) -> None:
    """Say on the console what is about to be done, where it may take long."""
    console.print(f"... {visible(step)}", style="dim", markup=False, highlight=False, soft_wrap=True)


def guarded(what: str, check: Iterable[Finding]) -> Iterator[Finding]:
    """What a check finds; an error ends it, and is a problem of `what`."""
    try:
        yield from check
    except UserError as error:
        yield Finding("problem", f"{what}: {error}")
    except Exception as error:  # a doctor who faints helps nobody
        first = next((line for line in str(error).splitlines() if line.strip()), "no message")
        yield Finding("problem", f"{what}: unexpected {type(error).__name__}: {first}; please report it")
