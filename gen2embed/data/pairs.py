"""Training pairs in MMEB's layout: MMEB itself (TIGER-Lab/MMEB-train), and your own files with its columns.

qry, qry_image_path, pos_text, pos_image_path
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gen2embed.data.rows import (
    Columns,
    Rows,
    data_files,
    known_names,
    locate_pictures,
    make_item,
    picture_roots,
    read_file,
    read_subset,
)
from gen2embed.types import Pair, UserError

COLUMNS = {"qry": str, "qry_image_path": str, "pos_text": str, "pos_image_path": str}


@dataclass(frozen=True, kw_only=True)
class PairSource(ABC):
    """Where training pairs come from.

    classification: the subsets that are classification, to a miner.
    clusters: a file of clusters to train on; None mines them. clusters_of_any_model: take those of another model.
    """

    classification: Sequence[str] = ()
    clusters: Path | None = None
    clusters_of_any_model: bool = False

    @abstractmethod
    def pairs(self) -> list[Pair]:
        """The pairs, subset by subset, in the order of the rows; `UserError` for what cannot be read."""

    @property
    @abstractmethod
    def roots(self) -> Sequence[Path]:
        """The folders that pictures are looked for in."""


@dataclass(frozen=True, kw_only=True)
class Mmeb(PairSource):
    """MMEB's training set, or one laid out alike.

    path: a folder as the hub lays it out, or a hub id. image_dir: where the pictures were unpacked.
    max_rows_per_subset: the first rows of each subset; None is all.
    teacher_column: another model's scores of the pairs.
    """

    path: str
    image_dir: Path
    subsets: Sequence[str]
    split: str = "original"
    max_rows_per_subset: int | None = None
    teacher_column: str | None = None

    def __post_init__(self) -> None:
        _check_rows(self.max_rows_per_subset)

    def pairs(self) -> list[Pair]:
        return [
            pair
            for subset in self.subsets
            for pair in _pairs(
                subset,
                read_subset(self.path, subset, self.split, _columns(self.teacher_column)),
                Path(self.image_dir),
                self.max_rows_per_subset,
            )
        ]

    @property
    def roots(self) -> Sequence[Path]:
        return picture_roots(Path(self.image_dir))


@dataclass(frozen=True, kw_only=True)
class Files(PairSource):
    """Your own pairs: one parquet, jsonl or csv file, or a folder of them, each a subset.

    image_dir: None is the folder of the files. subsets: names of files without ending; None is all.
    teacher_column: another model's scores of the pairs.
    """

    path: Path
    image_dir: Path | None = None
    subsets: Sequence[str] | None = None
    max_rows_per_subset: int | None = None
    teacher_column: str | None = None

    def __post_init__(self) -> None:
        _check_rows(self.max_rows_per_subset)

    def pairs(self) -> list[Pair]:
        columns = _columns(self.teacher_column)
        files = data_files(Path(self.path))
        chosen = known_names(str(self.path), "subset", files, self.subsets)
        return [
            pair
            for name in chosen
            for pair in _pairs(name, read_file(files[name], columns), self._root, self.max_rows_per_subset)
        ]

    @property
    def roots(self) -> Sequence[Path]:
        return picture_roots(self._root)

    @property
    def _root(self) -> Path:
        path = Path(self.path)
        return Path(self.image_dir) if self.image_dir else path.parent if path.is_file() else path


def _check_rows(limit: int | None) -> None:
    if limit is not None and limit < 1:
        raise UserError(f"data.max_rows_per_subset is at least 1, or null for all; got {limit}")


def _columns(teacher: str | None) -> Columns:
    return COLUMNS if teacher is None else {**COLUMNS, teacher: float}


def _pairs(subset: str, rows: Rows, image_dir: Path, limit: int | None) -> list[Pair]:
    kept = Rows(rows.where, rows.rows[:limit])
    if not len(kept):
        raise UserError(f"the subset {subset} in {rows.where} is empty: it has no rows")
    locate = locate_pictures(image_dir, (image for _, row in kept for image in (row[1], row[3])))
    return [
        Pair(
            make_item(row[0], row[1], locate, where), make_item(row[2], row[3], locate, where), subset, number, *row[4:]
        )
        for number, (where, row) in enumerate(kept)
    ]
