"""The one error type, and how a message is worded. Imports nothing, so that a command's help is quick."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Something that the user can mend: the message says what was wrong, what was got, and the remedy."""


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or its kind if it says nothing."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """` (did you mean ...?)`, or nothing where no name is close: the end of a `UserError`."""
    close = difflib.get_close_matches(name, list(names), 1)
    return f" (did you mean {close[0]}?)" if close else ""
