"""Continue a multirun that was cut off: a finished job runs again only if its inputs have changed."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gen2embed.config.renamed import translate
from gen2embed.model.identity import adapter_identity, digest_value, file_digests
from gen2embed.model.run_models import is_model
from gen2embed.utils.errors import UserError
from gen2embed.utils.facts import digest_of, keep_facts
from gen2embed.utils.fingerprints import differences, flat, without
from gen2embed.utils.log import log
from gen2embed.utils.redaction import redacted

LAST = "report.html"  # the file that a job writes last
FREE = ("output_dir", "paths", "logger", "callbacks", "resume", "engine", "search")  # settings without effect on scores
INPUTS = ("model", "checkpoint", "data", "benchmark", "validation")  # groups whose settings may name files
NOT_READ = ("image_dir", "folder")  # settings that name folders of pictures
ROWS = (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".txt")  # endings of files of rows


def is_finished(folder: Path, config: Mapping[str, Any]) -> bool:
    """Return whether a job with this configuration, and inputs as they are now, has ended in the folder.

    Raises:
        UserError: A job with other settings has ended there.
    """
    manifest = folder / "manifest.json"
    if not (folder / LAST).is_file() or not manifest.is_file():
        return False
    earlier = json.loads(manifest.read_text())
    if differing := differences(without(translate(earlier["config"]), FREE), without(redacted(config), FREE)):
        raise UserError(
            f"{folder} holds a finished run with other settings: {'; '.join(differing)}; choose another output_dir"
        )
    if "inputs" in earlier and (changed := differences(earlier["inputs"], input_digests(config))):
        names = ", ".join(line.partition(" is ")[0] for line in changed)
        log.info("%s was finished with other content of %s; the job runs again", folder, names)
        return False
    return True


def input_digests(config: Mapping[str, Any]) -> dict[str, str]:
    """Return a digest of each local model, adapter and file or folder of rows, by the setting that names it.

    Pictures are not read.
    """
    texts = {key: value for key, value in flat(config) if key.partition(".")[0] in INPUTS and isinstance(value, str)}
    digests = {key: _digest(Path(value)) for key, value in texts.items() if not key.endswith(NOT_READ)}
    keep_facts()
    return {key: digest for key, digest in digests.items() if digest is not None}


def _digest(path: Path) -> str | None:
    """Return a digest of a model, an adapter, a file or a folder of rows; None for any other path."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):  # a text that is no path
        return None
    if not stat.S_ISDIR(mode):
        return digest_of(path) if stat.S_ISREG(mode) else None
    if (path / "adapter_config.json").is_file():
        return adapter_identity(path)
    files = file_digests(path) if is_model(path) else {str(file): digest_of(file) for file in _rows(path)}
    return digest_value(list(files.values())) if files else None


def _rows(folder: Path) -> Iterator[Path]:
    for at, folders, names in os.walk(folder, followlinks=True):
        folders.sort()
        yield from (Path(at, name) for name in sorted(names) if name.endswith(ROWS) and not name.startswith("."))
