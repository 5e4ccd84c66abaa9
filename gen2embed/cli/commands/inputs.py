"""The inputs of the commands: the model, by its options, and items in a file or a folder."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gen2embed.cli.commands.folder import CONCERNING, HEIC, PICTURES, find_pictures, why_no_picture
from gen2embed.data.locate import locate_pictures, picture_roots
from gen2embed.data.pictures import check_pictures
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
class InputItems:
    """Items of a file or a folder.

    Attributes:
        items: The items, in order.
        columns: The text and the picture's name of each item, as the file or folder has them.
        skipped: One line that counts the files of a folder that are no items; "" for none.
        concerning: Whether files were skipped that somebody may miss.
    """

    items: Sequence[Item]
    columns: Mapping[str, Sequence[str]]
    skipped: str = ""
    concerning: bool = False

    @property
    def names(self) -> list[str]:
        """Return one line for each item."""
        rows = zip(*self.columns.values(), strict=True)
        return ["  ".join(" ".join(value.split()) for value in row if value) for row in rows]


def load_model(args: argparse.Namespace) -> Embedder:
    """Return the embedder that the options name; raises `UserError` if it cannot be loaded."""
    return Embedder.from_pretrained(args.model, args.adapter, args.prompt, args.convention, args.resolution)


def read_inputs(path: Path, image_dir: Path | None = None) -> InputItems:
    """Return the items of a file or a folder; `KINDS` lists which are read.

    Args:
        path: The file or the folder.
        image_dir: The folder of a table's pictures; None for the folder of the table.

    Raises:
        UserError: For a path that does not exist, and for items that cannot be read, pictures included, with the row.
    """
    if is_table(path):
        inputs = _rows(path, image_dir or path.parent)
    elif path.is_dir():
        inputs = _folder(path)
    elif not path.is_file():
        meant = f" (did you mean {similar}?)" if (similar := similar_file(path)) else ""
        raise UserError(f"{path} does not exist{meant}; give {KINDS}")
    elif (why := why_no_picture(path)) is None:
        inputs = InputItems([Item.create("", path)], {"image": [path.name]})
    elif why == HEIC:
        raise UserError(f"{path} is {HEIC}")
    elif path.suffix.lower() in ("", ".txt"):
        inputs = _lines(path)
    else:
        raise UserError(f"{path} is of an unknown kind; give {KINDS}")
    roots = picture_roots(image_dir or path.parent) if is_table(path) else ()
    check_pictures((picture for item in inputs.items for picture in item.pictures), roots)
    return inputs


def _folder(folder: Path) -> InputItems:
    pictures = find_pictures(folder)
    skipped = pictures.describe_skipped(folder)
    if not pictures.paths:
        more = f"; {skipped}" if skipped else ""
        raise UserError(
            f"{folder} holds no picture, at any depth: no file {', '.join(PICTURES)}, by name or content{more}"
        )
    columns = {"image": [str(path.relative_to(folder)) for path in pictures.paths]}
    concerning = any(reason in pictures.skipped for reason in CONCERNING)
    return InputItems([Item.create("", path) for path in pictures.paths], columns, skipped, concerning)


def _lines(file: Path) -> InputItems:
    lines = read_lines(file)
    if not lines:
        raise UserError(f"{file} is empty; give a text a line")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            raise UserError(f"{file} line {number} is empty; remove it, as every line is embedded")
    return InputItems([Item.create(line) for line in lines], {"text": lines})


def _rows(file: Path, image_dir: Path) -> InputItems:
    rows = read_file(file, COLUMNS, any_column=True)
    if not len(rows):
        raise UserError(f"{file} is empty: it has no rows")
    locate = locate_pictures(image_dir, [image for _, (_, image) in rows], rows.folder)
    items = [make_item(text, image, locate, where) for where, (text, image) in rows]
    return InputItems(items, {name: [row[index] for row in rows.rows] for index, name in enumerate(COLUMNS)})
