"""Remove secrets, home folders and control characters from what a run writes and logs.

A path below the home folder is written with `~`, so that it is valid for another user, too, and read with `expanded`.
A value that is a secret by its name or its form becomes `***`.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HIDDEN = "***"
SECRET = r"(?:api_?key|access_?key|token|secret|password|passwd|credentials?)"  # the end of a secret's name
LEAST = 8  # characters of a secret in an environment variable; a shorter value stands in too many texts
FORMS = re.compile(
    r"\bhf_[A-Za-z0-9]{16,}|\bsk-[A-Za-z0-9_-]{20,}|\bgh[opsur]_[A-Za-z0-9]{30,}|\bAKIA[A-Z0-9]{16}\b"
    r"|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"  # user and password of an address
)
ASSIGNED = re.compile(rf"(?i)((?:^|[\W_]){SECRET}=)(?!null\b|None\b)[^\s'\",}}\]]+")
CONTROLS = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)  # of terminals, of the direction of text, and surrogates


def redacted(value: Any) -> Any:
    """Return a plain value without secrets and home folders, in nested texts and at keys that name a secret."""
    return _redacted(value, _secrets(), _homes())


def redacted_text(text: str) -> str:
    """Return a text without secrets and home folders."""
    return _redacted_text(text, _secrets(), _homes())


def expanded(value: Any) -> Any:
    """Return a plain value in which texts that begin with `~/` begin with the home folder."""
    if isinstance(value, Mapping):
        return {key: expanded(nested) for key, nested in value.items()}
    if isinstance(value, list | tuple):
        return [expanded(nested) for nested in value]
    return str(Path(value).expanduser()) if isinstance(value, str) and value.startswith("~/") else value


def visible(text: str) -> str:
    """Return a text for a terminal or a log, redacted, with control characters escaped."""
    return CONTROLS.sub(lambda match: ascii(match[0])[1:-1], redacted_text(text))


class Visible(logging.Filter):
    """A filter that makes log messages `visible`."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = visible(record.getMessage()), ()
        return True


def _redacted(value: Any, secrets: list[str], homes: set[str]) -> Any:
    if isinstance(value, Mapping):
        return {
            key: HIDDEN
            if nested and isinstance(nested, str) and _names_secret(key)
            else _redacted(nested, secrets, homes)
            for key, nested in value.items()
        }
    if isinstance(value, list | tuple):
        return [_redacted(nested, secrets, homes) for nested in value]
    return _redacted_text(str(value), secrets, homes) if isinstance(value, str | Path) else value


def _redacted_text(text: str, secrets: list[str], homes: set[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, HIDDEN)
    text = ASSIGNED.sub(rf"\1{HIDDEN}", FORMS.sub(HIDDEN, text))
    for home in homes:
        text = re.sub(rf"(?<![\w.~-]){re.escape(home)}(?![\w.-])", "~", text)
    return text


def _names_secret(key: Any) -> bool:
    return re.search(rf"(?i)(?:^|_){SECRET}$", str(key)) is not None


def _secrets() -> list[str]:
    """Return the values of environment variables that name a secret, the longest first."""
    values = {value for name, value in os.environ.items() if _names_secret(name) and len(value) >= LEAST}
    return sorted(values, key=len, reverse=True)


def _homes() -> set[str]:
    home = Path.home()
    return {str(path) for path in (home, home.resolve()) if path != Path(path.anchor)}
