"""Rows of a dataset, from files or from the hub.

A file is parquet, jsonl or csv (lists in a csv are JSON). A subset lies in one of the layouts of `LAYOUTS`. Hidden
files, whose names begin with a dot, are no data.
"""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
from datasets.packaged_modules.cache.cache import Cache  # used without the hub

from gen2embed.data.reading import SEPARATORS, Refused, Table, checked_value, read, refuse
from gen2embed.data.row_files import SHARD, SUFFIXES, check_shards, parts_of, two_files, visible_entries
from gen2embed.types import Item
from gen2embed.utils.errors import UserError, did_you_mean, first_few, first_line
from gen2embed.utils.files import is_remote
from gen2embed.utils.log import log

LAYOUTS = (  # of a subset's split below the dataset's folder; the first is the hub's
    "{subset}/{split}-*.parquet",
    "{subset}/{split}.parquet",
    "{subset}/{split}.jsonl",
    "{subset}.parquet",
    "{subset}.jsonl",
)
Columns = Mapping[str, type]  # name -> str, float, list for a list of str, or tuple for a str or a list of them


@dataclass(frozen=True)
class Rows:
    """Checked rows.

    Args:
        where: The file or dataset, for messages.
        rows: The values of each row, in the order of the wanted columns.
        numbers: The number of each row in its file.
        folder: The folder of the files; None for rows from the hub.
        names: The names of all columns, also of those that were not read.
    """

    where: str
    rows: Sequence[tuple]
    numbers: Sequence[int]
    folder: Path | None = None
    names: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[tuple[str, tuple]]:
        """Yield where each row stands, for messages, and the row."""
        return ((f"{self.where} row {number}", row) for number, row in zip(self.numbers, self.rows, strict=True))


def read_subset(
    dataset: str | Path,
    subset: str,
    split: str,
    columns: Columns,
    refused: Refused | None = None,
    revision: str | None = None,
) -> Rows:
    """Read a split of one subset of a dataset.

    Args:
        dataset: A folder or a hub id.
        subset: The name of the subset.
        split: The name of the split.
        columns: The columns and the kinds of their values.
        refused: Gets the rows with wrong values, which are left out. None: the first one raises.
        revision: The commit, branch or tag of the hub's repository.

    Raises:
        UserError: The dataset or the subset does not exist or is ambiguous, or columns or values are wrong.
    """
    folder = Path(dataset)
    if not folder.is_dir():
        if not is_remote(dataset):
            raise UserError(f"the dataset {dataset} is neither a folder nor a hub id such as TIGER-Lab/MMEB-eval")
        return _from_hub(str(dataset), subset, split, columns, refused, revision)
    layouts = [layout.format(subset=glob.escape(subset), split=glob.escape(split)) for layout in LAYOUTS]
    held = [files for layout in layouts if (files := sorted(folder.glob(layout)))]
    if not held:
        names = sorted({path.stem for path in visible_entries(folder) if path.is_dir() or path.suffix in SUFFIXES})
        raise UserError(
            f"{folder / subset} has no file {split}-*.parquet or {split}.jsonl; {folder} holds "
            f"{', '.join(names[:40]) or 'nothing'}{did_you_mean(subset, names)}"
        )
    if len(held) > 1:
        raise UserError(two_files(f"the subset {subset}, split {split},", [held[0][0], held[1][0]]))
    (files,) = held
    check_shards(files)
    parts = [part for file in files for part in parts_of(file)]
    where = str(files[0] if len(files) == 1 else folder / subset)
    return _checked(where, columns, read(parts, columns, refused), refused, files[0].parent)


def read_file(
    files: Path | Sequence[Path], columns: Columns, *, any_column: bool = False, refused: Refused | None = None
) -> Rows:
    """Read the rows of one file, or of its shards.

    Args:
        files: The file or its shards.
        columns: The columns and the kinds of their values.
        any_column: Whether one of the columns is enough; the values of the others are empty texts then.
        refused: Gets the rows with wrong values, which are left out. None: the first one raises.

    Raises:
        UserError: Columns or values are wrong.
    """
    files = [files] if isinstance(files, Path) else files
    table = read([part for file in files for part in parts_of(file)], columns, refused)
    where = str(files[0] if len(files) == 1 else files[0].parent / SHARD.sub("-*.parquet", files[0].name))
    if any_column and table.columns:
        absent = {name: [None] * len(table.numbers) for name in columns if name not in table.columns}
        if absent and (others := [name for name in table.names if name not in columns]):
            log.warning("%s has no column %s; not read: %s", where, ", ".join(absent), ", ".join(others[:20]))
        table = Table(table.names, {**table.columns, **absent}, table.numbers, table.json_lists)
    return _checked(where, columns, table, refused, files[0].parent)


def known_names(owner: str, kind: str, known: Iterable[str], wanted: Sequence[str] | None) -> list[str]:
    """Return the wanted names in the order of the known ones; raises `UserError` for an unknown name.

    Args:
        owner: The dataset or benchmark, for messages.
        kind: What the names name, for messages.
        known: All names.
        wanted: The chosen names; None for all.
    """
    known = list(known)
    if unknown := sorted(set(wanted or ()) - set(known)):
        choices = f"choose from {', '.join(known)}{did_you_mean(unknown[0], known)}"
        raise UserError(f"{owner} has no {kind} {', '.join(unknown)}; {choices}")
    return [name for name in known if wanted is None or name in wanted]


def make_item(text: str, image: str, locate: Callable[[str], Path], where: str) -> Item:
    """Return the item of a text and a picture's name, one of which may be empty; raises `UserError` with the row."""
    try:
        return Item.create(text, locate(image) if image else None)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def _from_hub(
    dataset: str, subset: str, split: str, columns: Columns, refused: Refused | None, revision: str | None
) -> Rows:
    try:
        builder = datasets.load_dataset_builder(dataset, subset, revision=revision)
        builder.download_and_prepare()
        loaded = builder.as_dataset(split=split)
    except Exception as error:  # the hub's client raises many kinds
        first = first_line(error)
        raise UserError(f"the subset {subset}, split {split}, of {dataset} could not be loaded: {first}") from error
    if isinstance(builder, Cache) and revision not in (None, builder.hash):
        raise UserError(
            f"the hub is out of reach, and what was loaded last of {dataset} {subset} is of commit {builder.hash}, "
            f"not of revision {revision}; load it once with the hub, or name that commit"
        )
    names = loaded.column_names
    values = {name: list(loaded[name]) for name in columns if name in names}
    table = Table(names, values, range(len(loaded)), json_lists=builder.info.builder_name == "csv")
    return _checked(f"{dataset} {subset}", columns, table, refused)


def _checked(where: str, columns: Columns, table: Table, refused: Refused | None, folder: Path | None = None) -> Rows:
    if not len(table.numbers) and not table.names:
        raise UserError(f"{where} is empty: it has no rows")
    if missing := [name for name in columns if name not in table.columns]:
        lone = table.names[0] if len(table.names) == 1 else ""
        form = next((f"; write commas for {name}" for mark, name in SEPARATORS.items() if mark in lone), "")
        raise UserError(
            f"{where} lacks the column {', '.join(missing)}; it has {first_few(table.names, 20) or 'none'}{form}"
        )

    def column(name: str, kind: type) -> Iterator[Any]:
        for number, value in zip(table.numbers, table.columns[name], strict=True):
            try:
                yield checked_value(value, kind, where, number, name, json_lists=table.json_lists)
            except UserError as error:
                refuse(refused, number, str(error))
                yield None

    checked = zip(*(column(name, kind) for name, kind in columns.items()), strict=True)
    kept = [(number, row) for number, row in zip(table.numbers, checked, strict=True) if number not in (refused or ())]
    return Rows(where, [row for _, row in kept], [number for number, _ in kept], folder, table.names)
