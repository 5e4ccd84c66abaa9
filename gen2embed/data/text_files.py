"""Text files that a user wrote: UTF-8, with or without byte order marks, and the line ends of any system."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from gen2embed.utils.content import LFS_REMEDY, is_lfs_pointer, shown
from gen2embed.utils.errors import UserError

SAMPLE = 4096  # bytes at the beginning of a file that show its encoding
BYTE_ORDER_MARK = "\ufeff"
OTHER_ENCODINGS = {  # by the byte order mark; that of UTF-32 begins with that of UTF-16
    b"\xff\xfe\0\0": "UTF-32",
    b"\0\0\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
BY_NULS = {  # places in four bytes that are mostly NUL where a text is mostly Latin: little endian, then big
    (1, 3): "UTF-16",
    (0, 2): "UTF-16",
    (1, 2, 3): "UTF-32",
    (0, 1, 2): "UTF-32",
}


def open_text(file: Path, newline: str | None = None) -> IO[str]:
    """Return a text file opened for reading, without its byte order mark.

    Lines end in \\n, \\r\\n or \\r and nowhere else: `str.splitlines` also splits at U+2028, form feeds and others.
    A byte that is not UTF-8 becomes a lone surrogate, for the caller to refuse where the text is used.

    Args:
        file: The text file.
        newline: As for `open`; "" leaves line ends as they are, which the csv module needs.

    Raises:
        UserError: The file is in UTF-16 or UTF-32, or a pointer of Git LFS.
    """
    if is_lfs_pointer(file):
        raise UserError(f"{file} is a pointer of Git LFS; {LFS_REMEDY}")
    with file.open("rb") as opened:
        if encoding := _other_encoding(opened.read(SAMPLE)):
            raise UserError(f"{file} is in {encoding}; save it as UTF-8, as `iconv -f {encoding} -t UTF-8` does")
    return file.open(encoding="utf-8-sig", errors="surrogateescape", newline=newline)


def read_text(file: Path) -> str:
    """Return the text of a file; raises `UserError` if it is not UTF-8."""
    with open_text(file) as opened:
        text = opened.read()
    try:
        text.encode()
    except UnicodeEncodeError as error:
        line = text.count("\n", 0, error.start) + 1
        raise UserError(f"{file} is not a text file in UTF-8: see line {line}; save it as UTF-8") from None
    return text


def read_lines(file: Path) -> list[str]:
    """Return the lines of a text file without their ends.

    A byte order mark at the start of any line is dropped: joined files have them inside.

    Raises:
        UserError: The file is not UTF-8, or holds NUL bytes, which no text has.
    """
    lines = read_text(file).split("\n")
    if not lines[-1]:
        lines.pop()  # after the end of the last line
    for number, line in enumerate(lines, 1):
        if "\0" in line:
            raise UserError(f"{file} line {number} holds a NUL byte: it is no text file; give a text file in UTF-8")
    return [line.removeprefix(BYTE_ORDER_MARK) for line in lines]


def parse_json(text: str) -> Any:
    """Return the value of a JSON text; raises `ValueError`, also where an object has a key twice."""
    return json.loads(text, object_pairs_hook=_object)


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"it has the key {shown(next(name for name in names if names.count(name) > 1))} twice")
    return values


def _other_encoding(head: bytes) -> str | None:
    """Return the encoding that the first bytes of a file show; None for UTF-8, and for bytes that show none."""
    for mark, encoding in OTHER_ENCODINGS.items():
        if head.startswith(mark):
            return encoding
    share = [head[place::4].count(0) / max(1, len(head[place::4])) for place in range(4)]
    return BY_NULS.get(tuple(place for place in range(4) if share[place] >= 1 / 2))
