"""Write JSON and YAML without tokens and home folders."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import yaml

from gen2embed.outputs.paths import write_file
from gen2embed.utils import files
from gen2embed.utils.files import write_atomic
from gen2embed.utils.redaction import redacted


def write_json(path: Path, value: Any, by: str | None = None) -> None:
    """Write a value as JSON, redacted.

    Args:
        path: The file.
        value: Plain values; others are written as text.
        by: The command whose output the file is (`write_file`); None for a run, in its folder.
    """
    files.write_json(path, redacted(value), write_file=write_atomic if by is None else partial(write_file, by=by))


def redact_yaml(file: Path) -> None:
    """Redact a small file that another library has written, if it exists and needs it."""
    if not file.is_file():
        return
    content = yaml.safe_load(file.read_text())
    if (wanted := redacted(content)) != content:
        text = yaml.safe_dump(wanted, sort_keys=False, allow_unicode=True)
        write_atomic(file, lambda opened: opened.write(text.encode()))
