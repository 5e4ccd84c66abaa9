"""A multirun that was cut off goes on: a job that is finished is not run again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gen2embed.encoder.store import differences
from gen2embed.types import UserError

# What a job leaves at its very end.
LAST = {"train": "results.json", "eval": "results.json", "mine": "report.html"}
FREE = ("output_dir", "paths", "logger", "callbacks", "resume", "engine", "search")  # do not decide a result


def finished(name: str, folder: Path, config: Mapping[str, Any]) -> bool:
    """Whether the job of a configuration has ended in its folder; raises `UserError` if another one has.

    name: of the entry point.
    """
    manifest = folder / "manifest.json"
    if not (folder / LAST[name]).is_file() or not manifest.is_file():
        return False
    there = json.loads(manifest.read_text())["config"]
    if differing := differences(_deciding(there), _deciding(config)):
        raise UserError(
            f"{folder} holds a finished run with other settings: {'; '.join(differing)}; choose another output_dir"
        )
    return True


def _deciding(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in FREE}
