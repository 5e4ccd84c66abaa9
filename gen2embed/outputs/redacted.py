"""Write JSON and YAML without tokens and home folders."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from gen2embed.outputs.paths import write_file
from gen2embed.utils.files import write_atomic
from gen2embed.utils.redaction import redacted


def write_json(path: Path, value: Any, by: str | None = None) -> None:
    """Leave a value for people and programs, redacted.

    Args:
        path: The file.
        value: What JSON can hold; all else as text.
        by: The command that writes an output of its own (`outputs.write_file`); None is a run, in its folder.
    """
    text = json.dumps(redacted(value), indent=2, default=str)
    write = write_atomic if by is None else partial(write_file, by=by)
    write(path, write=lambda file: file.write(text.encode()))


def redact_yaml(file: Path) -> None:
    """Redact a small file that another library has written; one that is gone, or as it should be, is left alone."""
    if not file.is_file():
        return
    there = yaml.safe_load(file.read_text())
    if (wanted := redacted(there)) != there:
        text = yaml.safe_dump(wanted, sort_keys=False, allow_unicode=True)
        write_atomic(file, lambda opened: opened.write(text.encode()))
