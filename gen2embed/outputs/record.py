"""Keep the hidden record, `.gen2embed`, of the outputs in a folder, one line of JSON each.

    {"name": "v.npy", "by": "embed", "digest": "..."}          a file, or a folder with all its files, as it was written
    {"name": ".", "by": "train"}                               the folder is that of a run, with the files of runs

A line is on the disk before the output has its name, so that a kill leaves no output without a line. Ranks and runs
that write at the same time append to it; no line is removed. Where the record is another user's, as in /tmp, one's own
is `.gen2embed-<user id>`, and all are read.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gen2embed.utils.files import digest_of, named

RECORD = ".gen2embed"
RUN = "run"  # the writer of the folders of train.py, mine.py and eval.py


def is_written(path: Path, by: str) -> bool:
    """Return whether a file or folder is as `by` wrote it."""
    recorded = [
        line.get("digest") for line in read_record(path.parent) if (line["name"], line.get("by")) == (path.name, by)
    ]
    return bool(recorded) and any(_digest(path) == digest for digest in recorded if isinstance(digest, str))


def record(path: Path, by: str, written: Path) -> None:
    """Record that `by` is about to give `written` the name of `path`."""
    append(path.parent, {"name": path.name, "by": by, "digest": _digest(written)})


def append(folder: Path, line: Mapping[str, Any]) -> None:
    """Add a line to the record of a folder; it begins with a line break, as a kill may have left half a line."""
    file = _writable_record(folder)
    with named(file), open(file, "ab", opener=_open) as opened:
        opened.write(f"\n{json.dumps(line)}\n".encode())
        opened.flush()
        os.fsync(opened.fileno())


def check_record(folder: Path) -> None:
    """Raise `OSError`, with the record's path, if no line can be added to the record of a folder."""
    _writable_record(folder)


def is_record(name: str) -> bool:
    """Return whether a file of that name is a record, of any user."""
    return re.fullmatch(rf"{re.escape(RECORD)}(-\d+)?", name) is not None


def _writable_record(folder: Path) -> Path:
    """Return the record to append to, which need not exist: one's own where the first is another user's."""
    file = folder / RECORD
    for place in (file, folder / f"{RECORD}-{os.getuid()}" if hasattr(os, "getuid") else file):
        with contextlib.suppress(PermissionError), named(place):
            if os.path.lexists(place):
                os.close(_open(str(place), os.O_WRONLY))
            return place
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(file))


def _open(path: str, flags: int) -> int:
    """Open a file, but no link, which could lead to a file of somebody else.

    O_CREAT is left out where it exists: in /tmp, Linux refuses it for another user's file.
    """
    flags |= getattr(os, "O_NOFOLLOW", 0)
    try:
        return os.open(path, flags & ~os.O_CREAT)
    except FileNotFoundError:
        return os.open(path, flags, 0o666)


def read_record(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the complete lines of a folder's records."""
    for file in sorted(folder.glob(f"{RECORD}*")):
        if not is_record(file.name):
            continue
        try:
            lines = file.read_bytes().splitlines()
        except OSError:
            continue
        for line in lines:
            try:
                value = json.loads(line)
            except (ValueError, RecursionError):
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
