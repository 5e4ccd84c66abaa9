"""What the commands are given: the model, by its flags, and items in a file or a folder."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gen2embed.cli.commands.folder import CONCERNING, HEIC, PICTURES, find_pictures, why_no_picture
from gen2embed.data.locate import locate_pictures, picture_roots
from gen2embed.data.pictures import check
from gen2embed.data.row_files import SUFFIXES, is_table
from gen2embed.data.rows import make_item, read_file
from gen2embed.data.text_files import read_lines
from gen2embed.model.embedder import Embedder
from gen2embed.types import Item
from gen2embed.utils.errors import UserError
from gen2embed.utils.path_names import similar_file

COLUMNS = {"text": str, "image": str}
KINDS = (
    f"a text file, a {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} file with columns text and image, a picture, or a "
    "folder of pictures"
)


@dataclass(frozen=True)
class Given:
    """Items in order, and what is said of each in columns beside: its text, and its picture as it is named there.

    skipped: one line that counts the files of a folder that are none of the items; "" for none.
    concerning: whether files are among them that somebody may miss.
    """

    items: Sequence[Item]
    columns: Mapping[str, Sequence[str]]
    skipped: str = ""
    concerning: bool = False

    @property
    def names(self) -> list[str]:
        """One line an item."""
        rows = zip(*self.columns.values(), strict=True)
        return ["  ".join(" ".join(value.split()) for value in row if value) for row in rows]


def load_model(args: argparse.Namespace) -> Embedder:
    """The embedder that the flags describe; raises `UserError` if it cannot be loaded."""
    return Embedder.from_pretrained(args.model, args.adapter, args.prompt, args.convention, args.resolution)


def read_items(path: Path, image_dir: Path | None = None) -> Given:
    """The items at `path`: see `KINDS`. Pictures are looked for in `image_dir`, else beside the file.

    Raises `UserError` for what is not there or cannot be read, pictures included, with the row.
    """
    if is_table(path):
        given = _rows(path, image_dir or path.parent)
    elif path.is_dir():
        given = _folder(path)
    elif not path.is_file():
        meant = f" (did you mean {similar}?)" if (similar := similar_file(path)) else ""
        raise UserError(f"{path} does not exist{meant}; give {KINDS}")
    elif (why := why_no_picture(path)) is None:
        given = Given([Item.create("", path)], {"image": [path.name]})
    elif why == HEIC:
        raise UserError(f"{path} is {HEIC}")
    elif path.suffix.lower() in ("", ".txt"):
        given = _lines(path)
    else:
        raise UserError(f"{path} is of no kind that is known; give {KINDS}")
    roots = picture_roots(image_dir or path.parent) if is_table(path) else ()
    check((picture for item in given.items for picture in item.pictures), roots)
    return given


def _folder(folder: Path) -> Given:
    found = find_pictures(folder)
    skipped = found.describe_skipped(folder)
    if not found.paths:
        more = f"; {skipped}" if skipped else ""
        raise UserError(
            f"{folder} holds no picture, at any depth: no file {', '.join(PICTURES)}, by name or content{more}"
        )
    columns = {"image": [str(path.relative_to(folder)) for path in found.paths]}
    concerning = any(reason in found.skipped for reason in CONCERNING)
    return Given([Item.create("", path) for path in found.paths], columns, skipped, concerning)


def _lines(file: Path) -> Given:
    lines = read_lines(file)
    if not lines:
        raise UserError(f"{file} is empty; give a text a line")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            raise UserError(f"{file} line {number} is empty; remove it, as every line is embedded")
    return Given([Item.create(line) for line in lines], {"text": lines})


def _rows(file: Path, image_dir: Path) -> Given:
    rows = read_file(file, COLUMNS, any_column=True)
    if not len(rows):
        raise UserError(f"{file} is empty: it has no rows")
    locate = locate_pictures(image_dir, [image for _, (_, image) in rows], rows.folder)
    items = [make_item(text, image, locate, where) for where, (text, image) in rows]
    return Given(items, {name: [row[index] for row in rows.rows] for index, name in enumerate(COLUMNS)})
