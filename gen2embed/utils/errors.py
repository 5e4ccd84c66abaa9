"""The one error type, and how a message is worded. Imports nothing, so that a command's help is quick."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

LONGEST_WORD = 300  # characters without a blank in a message: a longer one is a value such as a picture in base64
LONGEST_MESSAGE = 4000


class UserError(ValueError):
    """Something that the user can mend: the message says what was wrong, what was got, and the remedy.

    Long values in the message are cut.
    """

    def __init__(self, message: object = "") -> None:
        text = re.sub(rf"\S{{{LONGEST_WORD + 1},}}", lambda word: f"{word[0][:150]}…{word[0][-50:]}", str(message))
        super().__init__(text if len(text) <= LONGEST_MESSAGE else f"{text[:LONGEST_MESSAGE]}…")


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or its kind if it says nothing."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """` (did you mean ...?)`, or nothing where no name is close: the end of a `UserError`."""
    close = difflib.get_close_matches(name, list(names), 1)
    return f" (did you mean {close[0]}?)" if close else ""
