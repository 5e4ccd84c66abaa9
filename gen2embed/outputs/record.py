"""The hidden record, `.gen2embed`, of what was written in a folder, a line of JSON each.

    {"name": "v.npy", "by": "embed", "digest": "..."}          a file, or a folder with all its files, as it was written
    {"name": ".", "by": "train"}                               the folder is that of a run, with what runs write in it

A line is on the disk before the output has its name, so a kill leaves no output without one. Ranks and runs that write
side by side append to it; nothing is ever taken out.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gen2embed.files import digest_of, named

RECORD = ".gen2embed"
RUN = "run"  # the writer of what train.py, mine.py and eval.py leave in their folders


def is_written(path: Path, by: str) -> bool:
    """Return whether a file or folder is as `by` wrote it."""
    recorded = {
        line.get("digest") for line in read_record(path.parent) if (line["name"], line.get("by")) == (path.name, by)
    }
    return bool(recorded) and _digest(path) in recorded


def record(path: Path, by: str, written: Path) -> None:
    """Record that `by` is about to give `written` the name of `path`."""
    append(path.parent, {"name": path.name, "by": by, "digest": _digest(written)})


def append(folder: Path, line: Mapping[str, Any]) -> None:
    """Add a line to the record of a folder; it begins with a line break, as a kill may have left half a line."""
    file = folder / RECORD
    with named(file), open(file, "ab", opener=_open) as opened:
        opened.write(f"\n{json.dumps(line)}\n".encode())
        opened.flush()
        os.fsync(opened.fileno())


def _open(path: str, flags: int) -> int:
    """Open a file that is not a link, which could lead to a file of somebody else."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def read_record(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of a folder's record that are whole."""
    try:
        lines = (folder / RECORD).read_bytes().splitlines()
    except OSError:
        return
    for line in lines:
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict) and isinstance(value.get("name"), str):
            yield value


def _digest(path: Path) -> str:
    """Return a digest of a file's content, or of the names and contents below a folder, links and folders included."""
    if not path.is_dir():
        return digest_of(path)
    digest = hashlib.blake2b(digest_size=16)
    for entry in sorted(path.rglob("*")):
        kind = "link" if entry.is_symlink() else "folder" if entry.is_dir() else "file"
        content = str(entry.readlink()) if kind == "link" else digest_of(entry) if kind == "file" else ""
        digest.update(json.dumps([str(entry.relative_to(path)), kind, content]).encode())
    return digest.hexdigest()
