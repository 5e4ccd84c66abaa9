"""Rows in MMEB's layout (TIGER-Lab/MMEB-train and MMEB-eval on the hub): training pairs and ranking tasks.

<folder>/<subset>/<split>-*.parquet      qry, qry_image_path, pos_text, pos_image_path
<folder>/<task>/test-*.parquet           qry_text, qry_img_path, tgt_text [], tgt_img_path []; target 0 is right
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from gen2embed.types import Item, Pair, RankingTask, UserError

TRAIN_COLUMNS = ("qry", "qry_image_path", "pos_text", "pos_image_path")
EVAL_COLUMNS = ("qry_text", "qry_img_path", "tgt_text", "tgt_img_path")


@dataclass(frozen=True)
class Benchmark:
    """Tasks to rank, the group (meta-task) of each, and where the pictures were looked for."""

    name: str
    tasks: tuple[RankingTask, ...]
    groups: Mapping[str, Sequence[str]]
    image_dir: Path


def read_benchmark(
    name: str,
    annotations: Path,
    image_dir: Path,
    groups: Mapping[str, Sequence[str]],
    subsets: Sequence[str] | None = None,
) -> Benchmark:
    """Read the tasks of a benchmark.

    groups: the tasks of each meta-task. subsets: the tasks to read; None is all.
    Raises `UserError` for no or unknown tasks, missing files or columns, and rows that cannot be ranked.
    """
    known = [task for tasks in groups.values() for task in tasks]
    if unknown := sorted(set(subsets or ()) - set(known)):
        raise UserError(f"benchmark {name} has no task {', '.join(unknown)}; choose from {', '.join(known)}")
    chosen = [task for task in known if subsets is None or task in subsets]
    if not chosen:
        raise UserError(
            f"benchmark {name} is empty: benchmark.subsets={list(subsets or ())} leaves no task of {len(known)}"
        )
    group_of = {task: group for group, tasks in groups.items() for task in tasks}
    tasks = tuple(_read_task(annotations, image_dir, task, group_of[task]) for task in chosen)
    return Benchmark(name, tasks, groups, image_dir)


def read_pairs(
    folder: Path,
    image_dir: Path,
    subsets: Sequence[str],
    split: str = "original",
    max_rows_per_subset: int | None = None,
) -> list[Pair]:
    """Read training pairs, subset by subset, in the order of the rows."""
    pairs = []
    for subset in subsets:
        rows = _rows(folder, subset, split, TRAIN_COLUMNS)
        for number, (query, query_image, text, image) in zip(
            range(max_rows_per_subset or len(rows)), rows, strict=False
        ):
            where = f"{folder / subset} row {number}"
            positive = _item((text, image), image_dir, where)
            pairs.append(Pair(_item((query, query_image), image_dir, where), positive, subset, number))
    return pairs


def _read_task(folder: Path, image_dir: Path, task: str, group: str) -> RankingTask:
    queries: list[Item] = []
    candidates: dict[tuple[str, str], int] = {}  # distinct across the task, in order of first appearance
    choices: list[tuple[int, ...]] = []
    for number, (text, image, texts, images) in enumerate(_rows(folder, task, "test", EVAL_COLUMNS)):
        where = f"{folder / task} row {number}"
        if not texts or len(texts) != len(images):
            raise UserError(
                f"{where} has {len(texts or ())} tgt_text and {len(images or ())} tgt_img_path; both need as many"
            )
        queries.append(_item((text, image), image_dir, where))
        choices.append(tuple(candidates.setdefault(side, len(candidates)) for side in zip(texts, images, strict=True)))
    if not queries:
        raise UserError(f"the task {task} in {folder} is empty: it has no rows")
    items = tuple(_item(side, image_dir, f"{folder / task} target {side!r}") for side in candidates)
    relevance = tuple((1.0, *[0.0] * (len(row) - 1)) for row in choices)
    return RankingTask(task, group, tuple(queries), items, tuple(choices), relevance)


def _item(side: tuple[str | None, str | None], image_dir: Path, where: str) -> Item:
    text, image = side
    try:
        return Item.of(text or "", image_dir / image if image else None)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def _rows(folder: Path, subset: str, split: str, columns: Sequence[str]) -> Sequence[tuple]:
    files = sorted((folder / subset).glob(f"{split}-*.parquet"))
    if not files:
        found = sorted(path.name for path in folder.glob("*/")) if folder.is_dir() else []
        raise UserError(
            f"{folder / subset} has no file {split}-*.parquet; "
            + (
                f"{folder} holds {', '.join(found[:40]) or 'no folders'}"
                if folder.is_dir()
                else f"{folder} does not exist"
            )
        )
    table = pa.concat_tables([pq.read_table(file) for file in files])
    if missing := [name for name in columns if name not in table.column_names]:
        raise UserError(f"{files[0]} lacks the column {', '.join(missing)}; it has {', '.join(table.column_names)}")
    return list(zip(*(table[name].to_pylist() for name in columns), strict=True))


def pictures(benchmark: Benchmark) -> Iterator:
    """Every picture of a benchmark."""
    return (picture for task in benchmark.tasks for item in task.items() for picture in item.pictures)
