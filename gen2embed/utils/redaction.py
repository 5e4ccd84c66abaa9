"""What a run leaves, and says, holds no token and no home folder, and moves no cursor.

A path below the home folder begins with `~`, so that a run's files name the same place for another user, and are
read back as such (`expanded`). What is a secret by its name or its look becomes `***`.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HIDDEN = "***"
SECRET = r"(?:api_?key|access_?key|token|secret|password|passwd|credentials?)"  # ends the name of one
LEAST = 8  # characters of a variable's value that is looked for; a shorter one is in too many texts
LOOKS = re.compile(
    r"\bhf_[A-Za-z0-9]{16,}|\bsk-[A-Za-z0-9_-]{20,}|\bgh[opsur]_[A-Za-z0-9]{30,}|\bAKIA[A-Z0-9]{16}\b"
    r"|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"  # user and password of an address
)
GIVEN = re.compile(rf"(?i)((?:^|[\W_]){SECRET}=)(?!null\b|None\b)[^\s'\",}}\]]+")
CONTROLS = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)  # terminals', of direction, no UTF-8


def redacted(value: Any) -> Any:
    """A plain value without secrets and home folders, in nested texts and under keys that name a secret."""
    return _redacted(value, _secrets(), _homes())


def redacted_text(text: str) -> str:
    return _redacted_text(text, _secrets(), _homes())


def expanded(value: Any) -> Any:
    """A plain value in which texts that begin with `~/` begin with the home folder again."""
    if isinstance(value, Mapping):
        return {key: expanded(its) for key, its in value.items()}
    if isinstance(value, list | tuple):
        return [expanded(its) for its in value]
    return str(Path(value).expanduser()) if isinstance(value, str) and value.startswith("~/") else value


def visible(text: str) -> str:
    """A text for a terminal or a log, which a stranger may have written: control characters as what they are."""
    return CONTROLS.sub(lambda found: ascii(found[0])[1:-1], redacted_text(text))


class Visible(logging.Filter):
    """Messages as `visible` has them."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = visible(record.getMessage()), ()
        return True


def _redacted(value: Any, secrets: list[str], homes: set[str]) -> Any:
    if isinstance(value, Mapping):
        return {
            key: HIDDEN if isinstance(its, str) and its and _names_secret(key) else _redacted(its, secrets, homes)
            for key, its in value.items()
        }
    if isinstance(value, list | tuple):
        return [_redacted(its, secrets, homes) for its in value]
    return _redacted_text(str(value), secrets, homes) if isinstance(value, str | Path) else value


def _redacted_text(text: str, secrets: list[str], homes: set[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, HIDDEN)
    text = GIVEN.sub(rf"\1{HIDDEN}", LOOKS.sub(HIDDEN, text))
    for home in homes:
        text = re.sub(rf"(?<![\w.~-]){re.escape(home)}(?![\w.-])", "~", text)
    return text


def _names_secret(key: Any) -> bool:
    return re.search(rf"(?i)(?:^|_){SECRET}$", str(key)) is not None


def _secrets() -> list[str]:
    """Values of this process's variables that name a secret, the longest first."""
    values = {value for name, value in os.environ.items() if _names_secret(name) and len(value) >= LEAST}
    return sorted(values, key=len, reverse=True)


def _homes() -> set[str]:
    home = Path.home()
    return {str(path) for path in (home, home.resolve()) if path != Path(path.anchor)}
