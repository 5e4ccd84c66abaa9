"""The error type for users, and parts of messages. This module imports no library, so that help is quick."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

LONGEST_WORD = 300  # characters; a longer word in a message is a value, such as a picture in base64
LONGEST_MESSAGE = 4000


class UserError(ValueError):
    """An error that the user can mend: the message says what was wrong, what was got, and the remedy.

    Long values in the message are cut.
    """

    def __init__(self, message: object = "") -> None:
        text = re.sub(rf"\S{{{LONGEST_WORD + 1},}}", lambda word: f"{word[0][:150]}…{word[0][-50:]}", str(message))
        super().__init__(text if len(text) <= LONGEST_MESSAGE else f"{text[:LONGEST_MESSAGE]}…")


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type if the message is empty."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


def first_few(values: Sequence[object], count: int = 3) -> str:
    """Return the first values, joined by commas, with an ellipsis if there are more."""
    return ", ".join(map(str, values[:count])) + (", …" if len(values) > count else "")


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Return ` (did you mean ...?)`, to end a message; nothing if no name is close."""
    close = difflib.get_close_matches(name, list(names), 1)
    return f" (did you mean {close[0]}?)" if close else ""
