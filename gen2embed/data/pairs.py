"""Training pairs in MMEB's layout: MMEB itself (TIGER-Lab/MMEB-train), and your own files with its columns.

qry, qry_image_path, pos_text, pos_image_path, and where they are asked for neg_text, neg_image_path
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from gen2embed.data.locate import locate_pictures, picture_roots
from gen2embed.data.pictures import read_facts
from gen2embed.data.reading import Refused
from gen2embed.data.row_files import data_files, home_of
from gen2embed.data.rows import Columns, Rows, known_names, make_item, read_file, read_subset
from gen2embed.types import Item, Pair
from gen2embed.utils.errors import UserError
from gen2embed.utils.log import log

COLUMNS = {"qry": str, "qry_image_path": str, "pos_text": str, "pos_image_path": str}
NEGATIVES = {"neg_text": tuple, "neg_image_path": tuple}


@dataclass(frozen=True, kw_only=True)
class PairSource(ABC):
    """A source of training pairs.

    Args:
        classification: The names of the classification subsets, which a miner treats as such.
        clusters: A file of clusters to train on; None mines them.
        clusters_of_any_model: Whether another model may have mined the clusters.
        on_error: What to do with bad rows; see `quarantine.valid_pairs`.
        max_skipped_share: The largest share of rows that may be left out.
    """

    classification: Sequence[str] = ()
    clusters: Path | None = None
    clusters_of_any_model: bool = False
    on_error: Literal["raise", "skip"] = "raise"
    max_skipped_share: float = 0.01

    @abstractmethod
    def read(self, refused: Callable[[str], Refused] | None) -> list[Pair]:
        """Return the pairs, subset by subset, in the order of the rows.

        Args:
            refused: Returns the dictionary of a subset that gets its bad rows, which are left out. None: the first bad
                row raises.

        Raises:
            UserError: Files or columns cannot be read, or a row is bad.
        """

    def pairs(self) -> list[Pair]:
        """Return all pairs; raises `UserError` at the first bad row."""
        return self.read(None)

    @property
    @abstractmethod
    def roots(self) -> Sequence[Path]:
        """The folders in which pictures are looked for."""


@dataclass(frozen=True, kw_only=True)
class RowSource(PairSource):
    """A source of pairs in rows of MMEB's columns. Further arguments: see `PairSource`.

    Args:
        max_rows_per_subset: How many rows of each subset are read, the first ones; None for all.
        teacher_column: The column of another model's scores of the pairs.
        negatives: Whether to read the columns of explicit negatives.
    """

    max_rows_per_subset: int | None = None
    teacher_column: str | None = None
    negatives: bool = False

    def __post_init__(self) -> None:
        if self.max_rows_per_subset is not None and self.max_rows_per_subset < 1:
            raise UserError(f"data.max_rows_per_subset is at least 1, or null for all; got {self.max_rows_per_subset}")


@dataclass(frozen=True, kw_only=True)
class Mmeb(RowSource):
    """MMEB's training set, or another one in its layout. Further arguments: see `RowSource`.

    Args:
        path: A folder in the layout of the hub's repository, or a hub id.
        image_dir: The folder where the pictures were unpacked.
        subsets: The names of the subsets to read.
        revision: The commit, branch or tag of the hub's repository.
        split: The split to read.
    """

    path: str
    image_dir: Path
    subsets: Sequence[str]
    revision: str | None = None
    split: str = "original"

    def read(self, refused: Callable[[str], Refused] | None) -> list[Pair]:
        columns, pairs = _columns(self.teacher_column, self.negatives), list[Pair]()
        for subset in self.subsets:
            bad = refused and refused(subset)
            rows = read_subset(self.path, subset, self.split, columns, bad, self.revision)
            pairs += _pairs(subset, rows, Path(self.image_dir), self.max_rows_per_subset, self.negatives, bad)
        return pairs

    @property
    def roots(self) -> Sequence[Path]:
        return picture_roots(Path(self.image_dir))


@dataclass(frozen=True, kw_only=True)
class Files(RowSource):
    """Your own pairs: one parquet, jsonl or csv file, or a folder of them, each a subset. See also `RowSource`.

    Args:
        path: The file or folder.
        image_dir: The folder of the pictures; None for the folder of the files.
        subsets: The subsets to read, by the names of their files without extension; None for all.
    """

    path: Path
    image_dir: Path | None = None
    subsets: Sequence[str] | None = None

    def read(self, refused: Callable[[str], Refused] | None) -> list[Pair]:
        columns, pairs = _columns(self.teacher_column, self.negatives), list[Pair]()
        files = data_files(Path(self.path))
        known_names(str(self.path), "subset", files, self.classification)  # raises for a name that is misspelt
        for name in known_names(str(self.path), "subset", files, self.subsets):
            bad = refused and refused(name)
            rows = read_file(files[name], columns, refused=bad)
            if not self.negatives and (unread := [column for column in NEGATIVES if column in rows.names]):
                log.warning("%s: %s not read; data.negatives=true reads them", rows.where, " and ".join(unread))
            pairs += _pairs(name, rows, self._root, self.max_rows_per_subset, self.negatives, bad)
        return pairs

    @property
    def roots(self) -> Sequence[Path]:
        return picture_roots(self._root)

    @property
    def _root(self) -> Path:
        return Path(self.image_dir) if self.image_dir else home_of(Path(self.path))


def _columns(teacher: str | None, negatives: bool) -> Columns:
    return {**COLUMNS, **(NEGATIVES if negatives else {}), **({teacher: float} if teacher else {})}


def _pairs(
    subset: str, rows: Rows, image_dir: Path, limit: int | None, negatives: bool, refused: Refused | None
) -> list[Pair]:
    """Return the pairs of the first `limit` rows; bad rows count."""
    if limit is not None:
        count = sum(number < limit for number in rows.numbers)
        rows = replace(rows, rows=rows.rows[:count], numbers=rows.numbers[:count])
        for number in [number for number in refused or () if number >= limit]:
            del refused[number]  # type: ignore[union-attr]
    if not len(rows) and not refused:
        raise UserError(f"the subset {subset} in {rows.where} is empty: it has no rows")
    names = [name for _, row in rows for name in (row[1], row[3], *(row[5] if negatives else ()))]
    locate = locate_pictures(image_dir, names, rows.folder)
    pairs = []
    for number, (where, (query, query_image, positive, positive_image, *rest)) in zip(rows.numbers, rows, strict=True):
        try:
            sides = (make_item(query, query_image, locate, where), make_item(positive, positive_image, locate, where))
            explicit = _negatives(rest[0], rest[1], locate, where) if negatives else ()
        except UserError as error:
            if refused is None:
                raise
            refused[number] = str(error)
            continue
        score = rest[-1] if len(rest) % 2 else None  # negatives come in two columns, the score in one
        pairs.append(Pair(*sides, subset, number, score, explicit))
    return pairs


def _negatives(
    texts: Sequence[str], images: Sequence[str], locate: Callable[[str], Path], where: str
) -> tuple[Item, ...]:
    """Return the explicit negatives of a row; a single text goes with every picture, and the other way round."""
    count = max(len(texts), len(images))
    if any(len(side) not in (0, 1, count) for side in (texts, images)):
        raise UserError(
            f"{where}: {len(texts)} texts in neg_text and {len(images)} names in neg_image_path; give as many"
        )
    sides = (side if len(side) == count else [*side, ""][:1] * count for side in (texts, images))
    return tuple(make_item(text, image, locate, where) for text, image in zip(*sides, strict=True) if text or image)


def data_fingerprint(pairs: Sequence[Pair], *, negatives: bool = False) -> str:
    """Return a digest of the rows: subset, number, texts, and the file names of the pictures.

    Args:
        pairs: The rows.
        negatives: Whether their explicit negatives count, which decide a loss, but no cluster.
    """
    digest = hashlib.blake2b(digest_size=16)
    for pair in pairs:
        row = [pair.subset, pair.row, pair.query.portable, pair.positive.portable]
        row += [item.portable for item in pair.negatives] if negatives else []
        digest.update(json.dumps(row).encode())
    return digest.hexdigest()


def items_digest(pairs: Sequence[Pair], *, negatives: bool = False) -> str:
    """Return a digest of the rows by the content of their pictures, whose files are read once.

    Args:
        pairs: The rows.
        negatives: Whether their explicit negatives count.
    """
    read_facts(picture for pair in pairs for picture in pair.pictures)
    digest = hashlib.blake2b(digest_size=16)
    for pair in pairs:
        for item in (pair.query, pair.positive, *(pair.negatives if negatives else ())):
            digest.update(item.key.encode())
    return digest.hexdigest()
