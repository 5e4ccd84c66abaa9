"""Read the columns of parquet, jsonl and csv files, and check each value."""

from __future__ import annotations

import contextlib
import csv
import json
import math
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gen2embed.data.text_files import BYTE_ORDER_MARK, open_text, parse_json
from gen2embed.utils.content import LFS_REMEDY, is_lfs_pointer, wrong_with
from gen2embed.utils.errors import UserError, first_line
from gen2embed.utils.log import log

Refused = dict[int, str]  # the numbers of rows that are left out, and why
JSON_BLANKS = " \t\r\n"
KINDS: dict[type, str] = {
    str: "a text",
    list: "a list of texts",
    tuple: "a text or a list of texts",
    float: "a finite number",
}
SEPARATORS = {"\t": "tabs", ";": "semicolons", "|": "bars"}  # of other files than ours


@dataclass(frozen=True)
class Table:
    """Unchecked columns of one file, or of its shards.

    Args:
        names: The names of all columns of the file, for messages.
        columns: The values of the wanted columns that the file has.
        numbers: The number of each row in the file; blank lines are counted, and are no rows.
        json_lists: Whether a text may be a list written as JSON, since the format has no lists.
    """

    names: Sequence[str]
    columns: Mapping[str, Sequence[Any]]
    numbers: Sequence[int]
    json_lists: bool = False


def read(files: Sequence[Path], wanted: Iterable[str], refused: Refused | None) -> Table:
    """Read the wanted columns of a file.

    Args:
        files: One file, or the shards of a parquet file.
        wanted: The names of the columns.
        refused: Gets the rows that cannot be parsed. None: the first one raises.

    Raises:
        UserError: A file cannot be read, or some of the shards lack a column.
    """
    if files[0].suffix.lower() == ".parquet":
        return _parquet(files, list(wanted))
    (file,) = files
    is_csv = file.suffix.lower() == ".csv"
    names, rows = _csv(file, wanted, refused) if is_csv else _jsonl(file, refused)
    columns = {name: [row.get(name) for row in rows.values()] for name in wanted if name in names}
    return Table(names, columns, list(rows), json_lists=is_csv)


def _parquet(files: Sequence[Path], wanted: Sequence[str]) -> Table:
    """Return the columns of shards, in order. Schemas may differ, since the values of each shard are converted."""
    columns: dict[str, list[Any]] = {}
    held: dict[Path, list[str]] = {}
    count = 0
    for file in files:
        try:
            with pq.ParquetFile(file) as opened:
                held[file] = opened.schema_arrow.names
                chosen = [name for name in wanted if name in held[file]]
                _check_once(file, held[file], chosen)
                table = opened.read(columns=chosen)
                for name in chosen:
                    columns.setdefault(name, []).extend(table.column(name).to_pylist())
                count += opened.metadata.num_rows
        except (pa.ArrowException, OSError) as error:
            if is_lfs_pointer(file):
                raise UserError(f"{file} is a pointer of Git LFS; {LFS_REMEDY}") from None
            raise UserError(f"{file} is not a parquet file that can be read: {first_line(error)}") from error
        except UnicodeDecodeError as error:
            raise UserError(f"{file} holds a text that is not UTF-8: {error}") from None
    for name in columns:
        if lacking := [file for file in files if name not in held[file]]:
            raise UserError(f"{lacking[0]} lacks the column {name}, which {len(files) - len(lacking)} shards have")
    return Table(list(dict.fromkeys(name for names in held.values() for name in names)), columns, range(count))


def _jsonl(file: Path, refused: Refused | None) -> tuple[list[str], dict[int, dict[str, Any]]]:
    """Return the names of all rows' keys, and the rows by number."""
    rows: dict[int, dict[str, Any]] = {}
    number = -1
    with open_text(file) as lines:
        for number, line in enumerate(lines):
            text = line.removeprefix(BYTE_ORDER_MARK)
            if not text.strip(JSON_BLANKS):
                continue
            row = None
            try:
                row = parse_json(text)
            except (ValueError, RecursionError) as error:
                refuse(refused, number, f"{file} row {number} is not JSON: {error}; {_form(text)}")
            else:
                if not isinstance(row, dict):
                    refuse(refused, number, f"{file} row {number} is not a JSON object: {text[:60]!r}; {_form(text)}")
            rows[number] = row if isinstance(row, dict) else {}
    _report_blank(file, number + 1 - len(rows))
    return list(dict.fromkeys(name for row in rows.values() for name in row)), rows


def _form(line: str) -> str:
    """Return how to write rows, for a line that is no row."""
    return "write one JSON object a line" + (", as `jq -c '.[]'` does" if line.lstrip().startswith("[") else "")


def _csv(file: Path, wanted: Iterable[str], refused: Refused | None) -> tuple[Sequence[str], dict[int, dict[str, Any]]]:
    """Return the names in the header, and the rows by number."""
    csv.field_size_limit(sys.maxsize)  # a text may be long
    rows: dict[int, dict[str, Any]] = {}
    number = -1
    with open_text(file, newline="") as lines:
        reader = csv.reader(lines, strict=True)  # else a lone quote takes the rest of the file into its field
        try:
            names = next(filter(None, reader), [])
            _check_once(file, names, wanted)
            for number, fields in enumerate(reader):
                if not any(field.strip() for field in fields) and len(fields) < 2:
                    continue
                if (more := len(fields) - len(names)) > 0:
                    refuse(refused, number, f"{file} row {number} has {more} fields more than the header")
                if any("\0" in field for field in fields):
                    refuse(refused, number, f"{file} row {number} holds a NUL byte, which no text has")
                rows[number] = dict(zip(names, fields, strict=False))
        except csv.Error as error:
            raise UserError(f'{file} row {number + 1}: {error}; quote a field with quotes as "say ""hi"""') from None
    _report_blank(file, number + 1 - len(rows))
    return names, rows


def _check_once(file: Path, names: Sequence[str], wanted: Iterable[str]) -> None:
    counts = Counter(names)
    for name in wanted:
        if counts[name] > 1:
            raise UserError(f"{file} has {counts[name]} columns {name}; leave one of them")


def _report_blank(file: Path, count: int) -> None:
    if count:
        log.warning("%s: %d blank line%s skipped", file, count, " is" if count == 1 else "s are")


def refuse(refused: Refused | None, number: int, message: str) -> None:
    """Note why a row is left out; raises `UserError` if rows are not left out."""
    if refused is None:
        raise UserError(message)
    refused.setdefault(number, message)


def checked_value(value: Any, kind: type, where: str, number: int, name: str, *, json_lists: bool = False) -> Any:
    """Return the value of one field.

    Args:
        value: The unchecked value.
        kind: `str` for a text, where null is an empty one; `list` for a list of texts; `tuple` for a text or a list of
            texts, of which the list is returned; `float` for a finite number, which may be written as a text.
        where: The file, for messages.
        number: The row, for messages.
        name: The column, for messages.
        json_lists: Whether a text in JSON may be a list.

    Raises:
        UserError: The value is of another kind.
    """
    if kind is not float:
        if json_lists and kind is not str and isinstance(value, str):
            value = _listed(value)
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and (wrong := wrong_with(text)):
                raise UserError(f"{where} row {number}: {name} {wrong}")
    converted = _convert(value, kind)
    if converted is None:
        raise UserError(f"{where} row {number}: {name} is not {KINDS[kind]} but {type(value).__name__} {_got(value)}")
    return converted


def _convert(value: Any, kind: type) -> str | list[str] | float | None:
    """Return a value as its column's kind; None if it is of another kind."""
    if kind is float:
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            if not isinstance(value, bool) and math.isfinite(float(value)):
                return float(value)
        return None
    if isinstance(value, str | None) and kind is not list:
        return value or "" if kind is str else [value or ""]
    if kind is not str and isinstance(value, list) and all(isinstance(part, str | None) for part in value):
        return [part or "" for part in value]
    return None


def _got(value: Any) -> str:
    """Return a value of a wrong kind as a message shows it, with the remedy where one is known."""
    if (isinstance(value, bytes) and not _is_text(value)) or (isinstance(value, dict) and "bytes" in value):
        return "of a picture: write it to a file, and give its name"
    return _shown(value) + ("; store the column as strings" if isinstance(value, bytes) else "")


def _listed(text: str) -> Any:
    """Return the list of texts that a text is in JSON, else the text itself, such as a box `[10, 20, 30, 40]`."""
    with contextlib.suppress(ValueError, RecursionError):
        value = json.loads(text)
        if isinstance(value, list) and all(isinstance(part, str | None) for part in value):
            return value
    return text


def _is_text(value: bytes) -> bool:
    try:
        return "\0" not in value.decode()
    except UnicodeDecodeError:
        return False


def _shown(value: Any) -> str:
    try:
        return repr(str(value)[:60])
    except (ValueError, RecursionError):  # of a number with thousands of digits
        return "that is too long to show"
