"""Find the files that hold rows: one file, its shards as the hub names them, or a folder of parts as Spark writes it.

Hidden files, whose names begin with a dot, are no data.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from collections.abc import Sequence
from pathlib import Path

from gen2embed.utils.errors import UserError
from gen2embed.utils.log import log

SUFFIXES = (".parquet", ".jsonl", ".csv")
OTHER_ROWS = re.compile(r"(?i)\.(json|ndjson|tsv|arrow|feather|xlsx?|pkl|((jsonl?|csv|tsv|parquet)\.\w+))$")
SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.parquet$")  # as the hub names the shards of a parquet file
PEEKED = 1000  # entries of a nested folder that are looked at


def data_files(path: Path) -> dict[str, list[Path]]:
    """Return the files at a path by their names without extension; shards of one file come together, in order.

    Raises:
        UserError: The file is of another kind, the folder has none, two files have one name, or shards are missing.
    """
    kinds = f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"
    if is_table(path):
        return {path.stem: [path]}
    if path.is_file():
        raise UserError(f"{path} is not a {kinds} file; convert it")
    files: dict[str, list[Path]] = {}
    for file in filter(is_table, visible_entries(path)):
        shards = files.setdefault(SHARD.sub("", file.name) if SHARD.search(file.name) else file.stem, [])
        if shards and not (SHARD.search(shards[0].name) and SHARD.search(file.name)):
            raise UserError(two_files(f"the subset {file.stem}", [shards[0], file]))
        shards.append(file)
    for shards in files.values():
        check_shards(shards)
    _report_skipped(path)
    if not files:
        state = f"holds no {kinds} file" if path.is_dir() else "does not exist"
        raise UserError(f"{path} {state}")
    return files


def is_rows_file(path: Path) -> bool:
    """Return whether a file holds rows, by its name."""
    return path.suffix.lower() in SUFFIXES


def is_table(path: Path) -> bool:
    """Return whether a path is a file of rows, or a folder of the parts of one, as Spark and Dask write it."""
    return is_rows_file(path) and (path.is_file() or bool(path.is_dir() and parts_of(path) != [path]))


def parts_of(path: Path) -> list[Path]:
    """Return the files in a folder that is named as a parquet file, in order; else the path itself."""
    if path.suffix.lower() != ".parquet" or not path.is_dir():
        return [path]
    return [part for part in visible_entries(path) if part.suffix.lower() == ".parquet" and part.is_file()] or [path]


def home_of(path: Path) -> Path:
    """Return the folder of the files at a path: itself, or that of a file or of a table in parts."""
    return path.parent if path.is_file() or is_table(path) else path


def _report_skipped(folder: Path) -> None:
    """Warn of files and folders that are not read, though they may hold rows."""
    if hidden := [file.name for file in folder.glob(".*") if is_rows_file(file)]:
        log.warning("%s: %d hidden files are skipped, such as %s", folder, len(hidden), hidden[0])
    others = [path for path in visible_entries(folder) if not is_table(path)]
    if unread := [path.name for path in others if OTHER_ROWS.search(path.name) and not path.is_dir()]:
        kinds = ", ".join(SUFFIXES)
        log.warning("%s: %d files are skipped, which are not %s: %s", folder, len(unread), kinds, ", ".join(unread[:3]))
    if deeper := [path.name for path in others if path.is_dir() and _holds_rows(path)]:
        named = ", ".join(deeper[:3])
        log.warning("%s: %d folders with files of rows are skipped: %s", folder, len(deeper), named)


def _holds_rows(folder: Path) -> bool:
    """Return whether files of rows are among the first entries of a folder, which may hold millions of pictures."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        return any(is_rows_file(Path(entry.name)) for entry in itertools.islice(entries, PEEKED))
    return False


def visible_entries(folder: Path) -> list[Path]:
    """Return the entries of a folder that are not hidden, sorted; none if there is no such folder."""
    return sorted(path for path in folder.glob("*") if not path.name.startswith("."))


def two_files(rows: str, files: Sequence[Path]) -> str:
    """Return the message for rows that lie in two files."""
    return f"{rows} lies in two files: {files[0]} and {files[1]}; remove or rename one of them"


def check_shards(files: Sequence[Path]) -> None:
    """Raise `UserError` if some shards, named as the hub names them, are missing or belong to another set."""
    matches = [SHARD.search(file.name) for file in files]
    numbers = [(int(match[1]), int(match[2])) for match in matches if match]
    counts = sorted({count for _, count in numbers})
    if len(counts) > 1 or 0 < len(numbers) < len(files):
        raise UserError(two_files(f"the rows of {files[0].parent}", [files[0], files[-1]]))
    if numbers and len(numbers) != counts[0]:
        raise UserError(
            f"{files[0].parent} holds {len(numbers)} of {counts[0]} shards, such as {files[0].name}; download the rest"
        )
