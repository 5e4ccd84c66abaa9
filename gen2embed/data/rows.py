"""Rows of a dataset, from files or from the hub, and where the pictures lie that they name.

A file is parquet, jsonl or csv (lists in a csv are JSON). A subset lies in one of the layouts of `LAYOUTS`.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
from datasets.packaged_modules.cache.cache import Cache  # what datasets reads without the hub

from gen2embed.data.reading import Refused, checked_value, read, refuse
from gen2embed.files import is_remote
from gen2embed.types import Item, UserError, did_you_mean, first_line

LAYOUTS = (  # of a subset's split below the dataset's folder; the first is the hub's
    "{subset}/{split}-*.parquet",
    "{subset}/{split}.parquet",
    "{subset}/{split}.jsonl",
    "{subset}.parquet",
    "{subset}.jsonl",
)
SUFFIXES = (".parquet", ".jsonl", ".csv")
LONGEST_PATH = 4000  # bytes of a picture's name; systems end at 4096 with its folder
CONTROL = [*map(chr, range(32)), "\x7f"]  # characters that no picture's name has
PROBED = 50  # picture names of a subset that are looked for to find their root

Columns = Mapping[str, type]  # name -> str, float, list for a list of str, or tuple for a str or a list of them


@dataclass(frozen=True)
class Rows:
    """Checked rows, as tuples in the order of the columns that were asked for.

    where: of the rows, for messages. numbers: of the rows in their files.
    """

    where: str
    rows: Sequence[tuple]
    numbers: Sequence[int]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[tuple[str, tuple]]:
        """Each row with its place, for messages."""
        return ((f"{self.where} row {number}", row) for number, row in zip(self.numbers, self.rows, strict=True))


def read_subset(
    dataset: str | Path,
    subset: str,
    split: str,
    columns: Columns,
    refused: Refused | None = None,
    revision: str | None = None,
) -> Rows:
    """A split of one subset of a dataset, which is a folder or a hub id.

    revision: of the hub's repository, a commit, branch or tag.
    refused: gets the rows with wrong values, which are left out; None raises at the first.
    Raises `UserError` for a dataset or a subset that is not there, and for wrong columns or values.
    """
    folder = Path(dataset)
    if not folder.is_dir():
        if not is_remote(dataset):
            raise UserError(f"the dataset {dataset} is neither a folder nor a hub id such as TIGER-Lab/MMEB-eval")
        return _from_hub(str(dataset), subset, split, columns, refused, revision)
    for layout in LAYOUTS:
        if files := sorted(folder.glob(layout.format(subset=subset, split=split))):
            where = str(files[0] if len(files) == 1 else folder / subset)
            return _checked(where, columns, *read(files, refused), refused)
    found = sorted({path.stem for path in folder.iterdir() if path.is_dir() or path.suffix in SUFFIXES})
    raise UserError(
        f"{folder / subset} has no file {split}-*.parquet or {split}.jsonl; {folder} holds "
        f"{', '.join(found[:40]) or 'nothing'}{did_you_mean(subset, found)}"
    )


def read_file(path: Path, columns: Columns, *, any_of_them: bool = False, refused: Refused | None = None) -> Rows:
    """The rows of one file; raises `UserError` for wrong columns or values.

    refused: as for `read_subset`.
    any_of_them: one of the columns is enough; the values of those that are not there are empty texts.
    """
    names, values = read([path], refused)
    if any_of_them and any(name in names for name in columns):
        values = [*values]
        absent = [name for name in columns if name not in names]
        names, values = [*names, *absent], [*values, *([None] * len(values[0]) for _ in absent)]
    return _checked(str(path), columns, names, values, refused)


def data_files(path: Path) -> dict[str, Path]:
    """A file, or every file of a folder, by its name without ending."""
    if path.is_file():
        if path.suffix not in SUFFIXES:
            raise UserError(f"{path} is not a {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} file")
        return {path.stem: path}
    files = {file.stem: file for file in sorted(path.glob("*")) if file.suffix in SUFFIXES}
    if not files:
        state = f"holds no {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} file" if path.is_dir() else "does not exist"
        raise UserError(f"{path} {state}")
    return files


def known_names(owner: str, kind: str, known: Iterable[str], wanted: Sequence[str] | None) -> list[str]:
    """The wanted ones of the known names, in their order; None is all. `UserError` for one that `owner` has not."""
    known = list(known)
    if unknown := sorted(set(wanted or ()) - set(known)):
        choices = f"choose from {', '.join(known)}{did_you_mean(unknown[0], known)}"
        raise UserError(f"{owner} has no {kind} {', '.join(unknown)}; {choices}")
    return [name for name in known if wanted is None or name in wanted]


def picture_roots(image_dir: Path) -> list[Path]:
    """The folders that pictures are looked for in: `image_dir`, and those right below it."""
    below = sorted(path for path in image_dir.iterdir() if path.is_dir()) if image_dir.is_dir() else []
    return [image_dir, *below]


def locate_pictures(image_dir: Path, names: Iterable[str]) -> Callable[[str], Path]:
    """A function from a picture's name in the annotations to its path.

    People unpack archives with a folder more or less, so some of `names` are looked for below `image_dir`, below each
    folder in it, and without their own first folder; the first layout that holds the most of them is taken for all.
    Raises `UserError` if there are names and no such folder; the function, for a name that leaves it.
    """
    distinct = dict.fromkeys(name for name in names if name)
    confined = (name for name in distinct if _outside(image_dir, name, image_dir / name) is None)
    probed = [Path(name) for name in itertools.islice(confined, PROBED)]
    if probed and not image_dir.is_dir():
        raise UserError(f"the image folder {image_dir} does not exist; set image_dir to where {probed[0]} lies")
    if all(_is_file(image_dir / name) for name in probed):
        return lambda name: _confined(image_dir, name, image_dir / name)
    layouts = [(root, 0) for root in picture_roots(image_dir)] + [(image_dir, 1)]
    hits = [sum(_is_file(root / Path(*name.parts[skip:])) for name in probed) for root, skip in layouts]
    root, skip = layouts[hits.index(max(hits))]
    return lambda name: _confined(image_dir, name, root / Path(*Path(name).parts[skip:]))


def _is_file(path: Path) -> bool:
    return os.path.isfile(path)  # noqa: PTH113  # which raises for no name, however long, and no folder that is closed


def _confined(image_dir: Path, name: str, path: Path) -> Path:
    """The path that a name has; `UserError` if it leaves the image folder."""
    if why := _outside(image_dir, name, path):
        raise UserError(f"the picture {name[:200]!r} {why}")
    return path


def _outside(image_dir: Path, name: str, path: Path) -> str | None:
    """Why a name is of no file below the image folder; None if it is of one. Links are `images.check`'s."""
    if len(os.fsencode(name)) > LONGEST_PATH or any(map(name.__contains__, CONTROL)):
        return f"is no file's name: it is longer than {LONGEST_PATH} bytes, or holds control characters; mend the row"
    root, its = os.path.abspath(image_dir), os.path.abspath(path)  # noqa: PTH100  # which follow no link
    if not its.startswith(root.rstrip(os.sep) + os.sep):
        return f"lies outside of {image_dir}; mend the row, or set image_dir to a folder that holds it"
    return None


def make_item(text: str, image: str, locate: Callable[[str], Path], where: str) -> Item:
    """The item of a text and a picture's name, either of which may be empty; `UserError` names the row if both are."""
    try:
        return Item.of(text, locate(image) if image else None)
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
    return _checked(f"{dataset} {subset}", columns, names, (list(loaded[name]) for name in names), refused)


def _checked(
    where: str, columns: Columns, names: Sequence[str], values: Iterable[Sequence[Any]], refused: Refused | None
) -> Rows:
    if missing := [name for name in columns if name not in names]:
        raise UserError(f"{where} lacks the column {', '.join(missing)}; it has {', '.join(names) or 'none'}")
    by_name = {name: value for name, value in zip(names, values, strict=True) if name in columns}

    def column(name: str, kind: type) -> Iterator[Any]:
        for number, value in enumerate(by_name[name]):
            try:
                yield checked_value(value, kind, where, number, name)
            except UserError as error:
                refuse(refused, number, str(error))
                yield None

    checked = list(zip(*(column(name, kind) for name, kind in columns.items()), strict=True))
    numbers = [number for number in range(len(checked)) if number not in (refused or ())]
    return Rows(where, [checked[number] for number in numbers], numbers)
