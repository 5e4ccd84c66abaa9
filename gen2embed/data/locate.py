"""From the names of pictures in rows to the paths of their files."""

from __future__ import annotations

import contextlib
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

from gen2embed.data.row_files import visible_entries
from gen2embed.utils.content import not_a_file, shown
from gen2embed.utils.errors import UserError, first_few
from gen2embed.utils.log import log
from gen2embed.utils.path_names import entries, folded

LONGEST_PATH = 4000  # bytes of a picture's name; systems allow 4096 with its folder
CONTROL = re.compile(r"[\x00-\x1f\x7f]")  # characters that no picture's name has
LISTED_FROM = 64  # names in one folder; fewer are looked up one by one, as the folder may hold millions of others


def picture_roots(image_dir: Path) -> list[Path]:
    """Return the folders to look for pictures in: `image_dir`, and those right below it that are not hidden."""
    return [image_dir, *(path for path in visible_entries(image_dir) if path.is_dir())]


def locate_pictures(image_dir: Path, names: Iterable[str], home: Path | None = None) -> Callable[[str], Path]:
    """Return a function from a picture's name in the rows to its path.

    1. A name is a path below `image_dir`.
    2. One that is not there is looked for in each folder right below `image_dir`, and in `image_dir` without the
       name's own first folder, as people unpack archives with a folder more or less.
    3. If several of these hold it, `home` wins if it is one of them; else the name is ambiguous.

    Folders are listed once, however many names there are.

    Args:
        image_dir: The folder of the pictures.
        names: All names that the rows have; an empty one is none.
        home: The folder of the rows' file.

    Raises:
        UserError: There are names and no such folder. The function raises it for a name that leaves the folder, is
            ambiguous, or is written otherwise than its file.
    """
    usable = [name for name in dict.fromkeys(names) if name and not _refusal(image_dir, name)]
    if usable and not image_dir.is_dir():
        raise UserError(f"the image folder {image_dir} does not exist; set image_dir to where {usable[0]} lies")
    elsewhere, absent = _search(image_dir, usable)
    other_form: list[str] = []  # of Unicode than their files' names
    for form in ("NFC", "NFD"):
        written = {converted: name for name in absent if (converted := unicodedata.normalize(form, name)) != name}
        nested, still = _search(image_dir, written)
        for converted in written.keys() - still:
            name = written[converted]
            elsewhere[name] = nested.get(converted, [image_dir / converted])
            other_form.append(name)
        absent -= {*other_form}
    if other_form:
        log.warning(
            "%d picture names are in another form of Unicode (NFC, NFD) than their files', such as %s; they are used",
            len(other_form),
            shown(min(other_form)),
        )
    names_in = cache(_names_by_folded)

    def locate(name: str) -> Path:
        path = image_dir / name
        if candidates := elsewhere.get(name):
            path = _choose(name, candidates, home)
        elif why := _refusal(image_dir, name) or (name in absent and _misspelt(image_dir, name, names_in)):
            raise UserError(f"the picture {shown(name)} {why}")
        return path

    return locate


def _search(image_dir: Path, names: Iterable[str]) -> tuple[dict[str, list[Path]], set[str]]:
    """Return the paths of names that are not below `image_dir` as they are, and the names that are nowhere."""
    absent = {*names}
    absent -= {*_present(image_dir, absent)}
    elsewhere: dict[str, list[Path]] = defaultdict(list)
    if not absent:
        return elsewhere, absent
    by_first = defaultdict(list)  # part of a name
    for name in absent:
        by_first[next((part for part in name.split("/") if part not in ("", ".")), "")].append(name)
    for root in picture_roots(image_dir)[1:]:
        below = [name for first in entries(root) if first in by_first for name in by_first[first]]
        for name in _present(root, below):
            elsewhere[name].append(root / name)
    shorter = {name: short for name in absent if (short := name.lstrip("./").partition("/")[2])}
    inside = {name: short for name, short in shorter.items() if not _refusal(image_dir, short)}
    held = {*_present(image_dir, {*inside.values()})}
    for name, short in inside.items():
        if short in held:
            elsewhere[name].append(image_dir / short)
    return elsewhere, absent - elsewhere.keys()


def _present(root: Path, names: Iterable[str]) -> Iterator[str]:
    """Yield the names that are files below a folder."""
    by_folder = defaultdict(list)
    for name in names:
        by_folder[name.rpartition("/")[0]].append(name)
    for folder, below in by_folder.items():
        if len(below) < LISTED_FROM:
            yield from (name for name in below if _is_file(root / name))
        else:
            files = _files(root / folder)
            yield from (name for name in below if name.rpartition("/")[2] in files)


def _files(folder: Path) -> set[str]:
    """Return the names of the files in a folder; none of one that cannot be read."""
    names = set()
    with contextlib.suppress(OSError), os.scandir(folder) as listing:
        for entry in listing:
            with contextlib.suppress(OSError):  # of links in a circle
                if entry.is_file():
                    names.add(entry.name)
    return names


def _is_file(path: Path) -> bool:
    return os.path.isfile(path)  # noqa: PTH113  # which raises for no name, however long, and no folder that is closed


def _choose(name: str, candidates: Sequence[Path], home: Path | None) -> Path:
    """Return the path of a name among several; raises `UserError` if they are different files, none of them at home."""
    if len(candidates) > 1:
        if home is not None and (at_home := [path for path in candidates if _same(path, home / name)]):
            return at_home[0]
        if not all(_same(candidates[0], path) for path in candidates[1:]):
            raise UserError(
                f"the picture {shown(name)} lies in {len(candidates)} folders: {first_few(candidates)}; name the "
                "folder in the rows, or set image_dir to one of them"
            )
    return candidates[0]


def _same(path: Path, candidate: Path) -> bool:
    try:
        return path.samefile(candidate)
    except OSError:
        return False


def _refusal(image_dir: Path, name: str) -> str | None:
    """Return why a name is of no file below the image folder; None if it may be. `check_pictures` sees links."""
    if why := not_a_file(name):
        return why
    if (len(name) > LONGEST_PATH // 4 and len(os.fsencode(name)) > LONGEST_PATH) or CONTROL.search(name):
        return f"is no file's name: it is longer than {LONGEST_PATH} bytes, or holds control characters; mend the row"
    if ".." not in name and name[0] != "/":
        return None
    root, path = os.path.abspath(image_dir), os.path.abspath(image_dir / name)  # noqa: PTH100  # which follow no link
    if not path.startswith(root.rstrip(os.sep) + os.sep):
        return f"lies outside of {image_dir}; mend the row, or set image_dir to a folder that holds it"
    return None


def _misspelt(image_dir: Path, name: str, names_in: Callable[[Path], Mapping[str, str]]) -> str | None:
    """Return how a name that is nowhere differs from a file's; None if no file's is alike."""
    short = name.partition("/")[2]
    if ".." in short and (outside := _refusal(image_dir, short)) and _is_file(image_dir / short):
        return outside
    actual = Path()  # the name as it is written on the disk
    for part in name.replace("\\", "/").split("/"):
        if part in ("", "."):
            continue
        if (entry := names_in(image_dir / actual).get(folded(part))) is None:
            break
        actual /= entry
    else:
        if _is_file(image_dir / actual) and actual != Path(name):
            return f"does not exist, but {actual} does: names differ in case, or by \\ for /; mend the rows"
    return "has backslashes; write / between folders, as other systems do" if "\\" in name else None


def _names_by_folded(folder: Path) -> dict[str, str]:
    return {folded(entry): entry for entry in entries(folder)}
