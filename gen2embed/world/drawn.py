"""Drawn examples as rows in MMEB's columns, their pictures written beside them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from gen2embed.world.tasks import Example, Side


class Saver:
    """Writes each picture object once, and returns (text with the marker, name relative to the folder).

    Args:
        folder: The folder.
        names: The name of a picture, with {} for its number.
    """

    def __init__(self, folder: Path, names: str) -> None:
        self.folder, self.names = folder, names
        self.saved: dict[int, tuple[str, Image.Image]] = {}  # by id; keeps the picture, so that no other gets its id
        (folder / names).parent.mkdir(parents=True)

    def __call__(self, side: Side) -> tuple[str, str]:
        text, picture = side
        if picture is None:
            return text, ""
        if id(picture) not in self.saved:
            name = self.names.format(len(self.saved))
            picture.save(self.folder / name)
            self.saved[id(picture)] = (name, picture)
        return f"<|image_1|>\n{text}" if text else "<|image_1|>", self.saved[id(picture)][0]


def train_columns(examples: Iterable[Example], save: Saver) -> dict[str, list[str]]:
    """Return queries and positives in the columns of `data.pairs`."""
    columns: dict[str, list[str]] = {"qry": [], "qry_image_path": [], "pos_text": [], "pos_image_path": []}
    for example in examples:
        for column, value in zip(columns.values(), (*save(example.query), *save(example.candidates[0])), strict=True):
            column.append(value)
    return columns


def eval_columns(examples: Iterable[Example], save: Saver, candidates: int | None = None) -> dict[str, list]:
    """Return queries and their candidates, all or the first `candidates`, in the columns of `data.mmeb`."""
    columns: dict[str, list] = {"qry_text": [], "qry_img_path": [], "tgt_text": [], "tgt_img_path": []}
    for example in examples:
        texts, names = zip(*map(save, example.candidates[:candidates]), strict=True)
        for column, value in zip(columns.values(), (*save(example.query), texts, names), strict=True):
            column.append(value)
    return columns
