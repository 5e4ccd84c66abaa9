"""The rows of parquet, jsonl and csv files, and the values in them, each of which is checked."""

from __future__ import annotations

import contextlib
import csv
import json
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gen2embed.content import wrong_with
from gen2embed.types import UserError

Refused = dict[int, str]  # rows that are left out, by their number: what is wrong with them
# A byte that is not UTF-8 becomes a lone surrogate, which is refused where it is of a value that is wanted.
TEXT: dict[str, Any] = {"encoding": "utf-8-sig", "errors": "surrogateescape"}


def read(files: Sequence[Path], refused: Refused | None) -> tuple[list[str], Iterable[Sequence[Any]]]:
    """Column names, and each column's values."""
    if files[0].suffix == ".parquet":
        try:
            table = pa.concat_tables([pq.read_table(file) for file in files])
        except (pa.ArrowInvalid, OSError) as error:
            raise UserError(f"{files[0].parent} holds a parquet file that cannot be read: {error}") from error
        return table.column_names, (_texts(column, files[0]) for column in table.columns)
    try:
        (file,) = files  # only parquet comes in shards
        rows = list(_jsonl(file, refused) if file.suffix == ".jsonl" else _csv(file, refused))
    except csv.Error as error:
        raise UserError(f"{files[0]} is not a csv file that can be read: {error}") from None
    names = list(dict.fromkeys(name for row in rows for name in row))
    return names, ([row.get(name) for row in rows] for name in names)


def _texts(column: pa.ChunkedArray, file: Path) -> list[Any]:
    try:
        return column.to_pylist()
    except UnicodeDecodeError as error:
        raise UserError(f"{file.parent} holds a parquet file with a text that is not UTF-8: {error}") from None


def _jsonl(file: Path, refused: Refused | None) -> Iterator[dict[str, Any]]:
    with file.open(**TEXT) as lines:
        for number, line in enumerate(lines):
            row = None
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                refuse(refused, number, f"{file} row {number} is not JSON: {error}")
            else:
                if not isinstance(row, dict):
                    refuse(refused, number, f"{file} row {number} is not a JSON object: {line[:60]!r}")
            yield row if isinstance(row, dict) else {}


def _csv(file: Path, refused: Refused | None) -> Iterator[dict[str, Any]]:
    csv.field_size_limit(sys.maxsize)  # a text may be long
    with file.open(**TEXT, newline="") as lines:
        for number, row in enumerate(csv.DictReader(lines)):
            if more := row.pop(None, None):
                refuse(refused, number, f"{file} row {number} has {len(more)} fields more than the header")
            yield row


def refuse(refused: Refused | None, number: int, said: str) -> None:
    if refused is None:
        raise UserError(said)
    refused.setdefault(number, said)


def checked_value(value: Any, kind: type, where: str, number: int, name: str) -> Any:
    """A text, null being an empty one; a list of texts, which in a csv is JSON; or a number, which there is a text.

    What may be a text or a list of texts comes as a list.
    """
    if kind is float and not isinstance(value, bool):
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            if math.isfinite(float(value)):
                return float(value)
    if kind in (list, tuple) and isinstance(value, str) and (kind is list or value.startswith("[")):
        with contextlib.suppress(ValueError, RecursionError):
            value = json.loads(value)
    for text in (value if isinstance(value, list) else [value]) if kind is not float else ():
        if isinstance(text, str) and (wrong := wrong_with(text)):
            raise UserError(f"{where} row {number}: {name} {wrong}")
    if kind is str and isinstance(value, str | None):
        return value or ""
    if kind is tuple and isinstance(value, str | None):
        return [value or ""]
    if kind in (list, tuple) and isinstance(value, list) and all(isinstance(part, str | None) for part in value):
        return [part or "" for part in value]
    names: dict[type, str] = {str: "a text", list: "a list of texts", tuple: "a text or a list of texts"}
    wanted = names.get(kind, "a finite number")
    raise UserError(f"{where} row {number}: {name} is not {wanted} but {type(value).__name__} {_shown(value)}")


def _shown(value: Any) -> str:
    try:
        return repr(str(value)[:60])
    except (ValueError, RecursionError):  # of a number with thousands of digits
        return "that is too long to show"
