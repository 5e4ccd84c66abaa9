"""A multirun that was cut off goes on: a job that is finished is not run again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gen2embed.encoder.store import differences, without
from gen2embed.redaction import redacted
from gen2embed.types import UserError

LAST = "report.html"  # is what a job leaves at its very end
FREE = ("output_dir", "paths", "logger", "callbacks", "resume", "engine", "search")  # do not decide a result


def finished(folder: Path, config: Mapping[str, Any]) -> bool:
    """Whether the job of a configuration has ended in its folder; raises `UserError` if another one has."""
    manifest = folder / "manifest.json"
    if not (folder / LAST).is_file() or not manifest.is_file():
        return False
    there = json.loads(manifest.read_text())["config"]
    if differing := differences(without(there, FREE), without(redacted(config), FREE)):
        raise UserError(
            f"{folder} holds a finished run with other settings: {'; '.join(differing)}; choose another output_dir"
        )
    return True
