"""SugarCrepe and SugarCrepe++: captions of a COCO picture, and a caption that is wrong by a detail.

    SugarCrepe    <subset>.json   {"0": {filename, caption, negative_caption}, ...}           arXiv 2306.14610
    SugarCrepe++  <subset>.json   [{filename, caption, caption2, negative_caption}, ...]      arXiv 2406.11171

As the reference runs them, captions are prompted as queries with `CAPTION` around them, and pictures, without a text,
as candidates. Every comparison is strict, on float32 similarities:

    SugarCrepe           s(picture, caption) > s(picture, negative)
    SugarCrepe++, itt    s(picture, caption) > s(picture, negative)  and  s(picture, caption2) > s(picture, negative)
    SugarCrepe++, tot    s(caption, caption2) > s(caption, negative)  and  s(caption, caption2) > s(caption2, negative)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gen2embed.data.benchmark import Benchmark, choose_tasks
from gen2embed.data.locate import locate_pictures, picture_roots
from gen2embed.data.numbering import number_distinct
from gen2embed.data.row_files import visible_entries
from gen2embed.data.rows import known_names, make_item
from gen2embed.data.text_files import parse_json, read_text
from gen2embed.types import Item, Policy, RankingTask
from gen2embed.utils.choices import Role
from gen2embed.utils.content import wrong_with
from gen2embed.utils.errors import UserError, did_you_mean

CAPTION = "Find me an image that matches the given caption: {}"
KEYS = ("filename", "caption", "negative_caption")
PARTS = ("itt", "tot")  # of SugarCrepe++


def read_sugarcrepe(
    annotations: Path,
    image_dir: Path,
    groups: Mapping[str, Sequence[str]],
    subsets: Sequence[str] | None = None,
    resolution: Policy | None = None,
) -> Benchmark:
    """Read SugarCrepe.

    Args:
        annotations: The folder of `<subset>.json`.
        image_dir: The folder of the COCO pictures.
        groups: The subsets of each kind of change.
        subsets: The subsets to read; None for all.
        resolution: The resolution policy of the benchmark; None for the run's own.

    Raises:
        UserError: A subset is unknown, a file is missing, or a row is malformed.
    """
    folder, images = Path(annotations), Path(image_dir)
    group_of = {subset: group for group, members in groups.items() for subset in members}
    tasks = []
    for subset in choose_tasks("sugarcrepe", list(group_of), subsets):
        rows = _read(folder, subset, KEYS)
        pictures = _pictures(images, rows, folder / f"{subset}.json")
        captions = [(row["caption"], row["negative_caption"]) for row in rows]
        comparisons = [(picture, *pair) for picture, pair in zip(pictures, captions, strict=True)]
        tasks.append(_task(subset, group_of[subset], comparisons, "candidate", None, 1 / 2))
    return Benchmark("sugarcrepe", tuple(tasks), groups, {}, picture_roots(images), resolution)


def read_sugarcrepe_pp(
    annotations: Path,
    image_dir: Path,
    subset_names: Sequence[str],
    subsets: Sequence[str] | None = None,
    resolution: Policy | None = None,
    parts: Sequence[str] | None = None,
) -> Benchmark:
    """Read SugarCrepe++: of every subset a task of group itt (picture to texts) and one of group tot (texts only).

    Args:
        annotations: The folder of `<subset>.json`.
        image_dir: The folder of the COCO pictures, which only itt needs.
        subset_names: All subsets.
        subsets: The subsets to read; None for all.
        resolution: The resolution policy of the benchmark; None for the run's own.
        parts: The groups to read; None for both.

    Raises:
        UserError: As in `read_sugarcrepe`.
    """
    folder, images = Path(annotations), Path(image_dir)
    chosen = known_names("benchmark sugarcrepe_pp", "part", PARTS, parts)
    if not chosen:
        raise UserError(
            f"benchmark.parts={list(parts or ())} leaves nothing of SugarCrepe++; choose of {', '.join(PARTS)}"
        )
    pictured = "itt" in chosen
    itt, tot = [], []
    for subset in choose_tasks("sugarcrepe_pp", subset_names, subsets):
        rows = _read(folder, subset, (*(KEYS if pictured else KEYS[1:]), "caption2"))
        twice = tuple(number for number in range(len(rows)) for _ in range(2))
        captions = [(row["caption"], row["caption2"], row["negative_caption"]) for row in rows]
        # Chance: of three exchangeable similarities, each is the lowest, or the highest, in a third of the cases.
        if pictured:
            pictures = _pictures(images, rows, folder / f"{subset}.json")
            by_picture = [
                (picture, right, wrong)
                for picture, (first, second, wrong) in zip(pictures, captions, strict=True)
                for right in (first, second)
            ]
            itt.append(_task(f"{subset}_itt", "itt", by_picture, "candidate", twice, 1 / 3))
        if "tot" in chosen:
            by_text = [
                (_caption(query), right, wrong)
                for first, second, wrong in captions
                for query, right in ((first, second), (second, first))
            ]
            tot.append(_task(f"{subset}_tot", "tot", by_text, "query", twice, 1 / 3))
    groups = {part: [f"{subset}_{part}" for subset in subset_names] for part in PARTS}
    roots = picture_roots(images) if pictured else ()
    return Benchmark("sugarcrepe_pp", (*itt, *tot), groups, {}, roots, resolution)


def _task(
    name: str,
    group: str,
    comparisons: Sequence[tuple[Item, str, str]],
    query_role: Role,
    rows: tuple[int, ...] | None,
    chance: float,
) -> RankingTask:
    """Return a task in which every query ranks a right caption above a wrong one."""
    captions = [caption for _, right, wrong in comparisons for caption in (right, wrong)]
    numbers, first = number_distinct(captions)
    choices = tuple(map(tuple, numbers.reshape(-1, 2).tolist()))
    return RankingTask(
        name=name,
        group=group,
        queries=tuple(query for query, _, _ in comparisons),
        candidates=tuple(_caption(captions[index]) for index in first),
        choices=choices,
        relevance=((1.0, 0.0),) * len(choices),
        query_role=query_role,
        candidate_role="query",
        strict=True,
        rows=rows,
        chance=chance,
    )


def _caption(caption: str) -> Item:
    return Item.create(CAPTION.format(caption))


def _pictures(image_dir: Path, rows: Sequence[Mapping[str, str]], file: Path) -> list[Item]:
    """Return the picture of each row, the same item for all rows of a picture."""
    numbers: dict[str, int] = {}  # of the first row of each picture
    for number, row in enumerate(rows):
        numbers.setdefault(row["filename"], number)
    locate = locate_pictures(image_dir, numbers, file.parent)
    items = {name: make_item("", name, locate, f"{file} row {number}") for name, number in numbers.items()}
    return [items[row["filename"]] for row in rows]


def _read(folder: Path, subset: str, keys: Sequence[str]) -> list[dict[str, Any]]:
    file = folder / f"{subset}.json"
    if not file.is_file():
        names = [path.stem for path in visible_entries(folder) if path.suffix == ".json"]
        state = f"holds {', '.join(names) or 'no .json file'}" if folder.is_dir() else "does not exist"
        raise UserError(f"the annotations {file} do not exist; {folder} {state}{did_you_mean(subset, names)}")
    text = read_text(file)
    try:
        rows = parse_json(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is not JSON: {error}") from None
    rows = list(rows.values()) if isinstance(rows, dict) else rows
    if not isinstance(rows, list) or not rows:
        raise UserError(f"{file} holds no rows; SugarCrepe's files are a list, or an object, of rows")
    for number, row in enumerate(rows):
        for key in keys:
            if not isinstance(row, dict) or not isinstance(row.get(key), str) or not row[key]:
                has = ", ".join([*row][:20]) if isinstance(row, dict) else type(row).__name__
                raise UserError(f"{file} row {number} has no text under {key}; it has {has}")
            if wrong := wrong_with(row[key]):
                raise UserError(f"{file} row {number}: {key} {wrong}")
    return rows
