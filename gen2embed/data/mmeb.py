"""Ranking tasks in MMEB's layout: the benchmark itself (TIGER-Lab/MMEB-eval), and your own files with its columns.

qry_text, qry_img_path    the query
tgt_text, tgt_img_path    lists of as many texts and picture names; target 0 is right
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from gen2embed.data.benchmark import Benchmark, choose_tasks
from gen2embed.data.leaderboard import leaderboard
from gen2embed.data.locate import locate_pictures, picture_roots
from gen2embed.data.row_files import data_files, home_of
from gen2embed.data.rows import Rows, make_item, read_file, read_subset
from gen2embed.types import Item, Policy, RankingTask
from gen2embed.utils.choices import Role
from gen2embed.utils.errors import UserError
from gen2embed.utils.log import log

COLUMNS = {"qry_text": str, "qry_img_path": str, "tgt_text": list, "tgt_img_path": list}


def read_mmeb(
    annotations: str,
    image_dir: Path,
    groups: Mapping[str, Sequence[str]],
    averages: Mapping[str, Sequence[str]] | None = None,
    subsets: Sequence[str] | None = None,
    candidates_as_queries: Sequence[str] = (),
    resolution: Policy | None = None,
    name: str = "mmeb",
    revision: str | None = None,
) -> Benchmark:
    """Read MMEB, or another benchmark in its layout. Its score sheet is that of MMEB's leaderboard.

    Args:
        annotations: A folder in the layout of the hub's repository, or a hub id.
        image_dir: The folder of the pictures.
        groups: The tasks of each meta-task.
        averages: The tasks of further averages.
        subsets: The tasks to read; None for all.
        candidates_as_queries: The tasks whose candidates are prompted as queries.
        resolution: The resolution policy of the benchmark; None for the run's own.
        name: The benchmark's name in results.
        revision: The commit, branch or tag of the hub's repository.

    Raises:
        UserError: No task is left or one is unknown, files or columns are missing, or rows cannot be ranked.
    """
    tasks = read_tasks(name, annotations, image_dir, groups, subsets, candidates_as_queries, revision)
    roots, sheets = picture_roots(Path(image_dir)), {"leaderboard.json": leaderboard}
    return Benchmark(name, tasks, groups, averages or {}, roots, resolution, sheets)


def read_tasks(
    benchmark: str,
    annotations: str,
    image_dir: Path,
    groups: Mapping[str, Sequence[str]],
    subsets: Sequence[str] | None = None,
    candidates_as_queries: Sequence[str] = (),
    revision: str | None = None,
) -> tuple[RankingTask, ...]:
    """Return the tasks of a benchmark in MMEB's layout; arguments and errors are those of `read_mmeb`."""
    known = [task for tasks in groups.values() for task in tasks]
    chosen = choose_tasks(benchmark, known, subsets)
    group_of = {task: group for group, tasks in groups.items() for task in tasks}
    roles: dict[str, Role] = dict.fromkeys(candidates_as_queries, "query")
    tasks = []
    for task in chosen:
        rows = read_subset(annotations, task, "test", COLUMNS, revision=revision)
        tasks.append(_task(task, group_of[task], rows, Path(image_dir), roles.get(task)))
    return tuple(tasks)


def read_custom(
    annotations: Path,
    image_dir: Path | None = None,
    subsets: Sequence[str] | None = None,
    resolution: Policy | None = None,
    name: str = "custom",
) -> Benchmark:
    """Read your own tasks: one parquet, jsonl or csv file, or a folder of them, each a task.

    Args:
        annotations: The file or folder.
        image_dir: The folder of the pictures; None for the folder of the files.
        subsets: The tasks to read, by the names of their files without extension; None for all.
        resolution: The resolution policy of the benchmark; None for the run's own.
        name: The benchmark's name in results.

    Raises:
        UserError: As in `read_mmeb`.
    """
    files = data_files(Path(annotations))
    chosen = choose_tasks(name, list(files), subsets)
    root = Path(image_dir) if image_dir else home_of(Path(annotations))
    tasks = tuple(_task(task, name, read_file(files[task], COLUMNS), root, None) for task in chosen)
    return Benchmark(name, tasks, {name: list(files)}, {}, picture_roots(root), resolution)


def _task(name: str, group: str, rows: Rows, image_dir: Path, candidate_role: Role | None) -> RankingTask:
    if not len(rows):
        raise UserError(f"the task {name} in {rows.where} is empty: it has no rows")
    sides: dict[tuple[str, str], int] = {}  # distinct candidates of the task, in order of first appearance
    choices = []
    for where, (_, _, texts, images) in rows:
        _check_targets(texts, images, where)
        numbers = (sides.setdefault(side, len(sides)) for side in zip(texts, images, strict=True))
        choices.append(np.fromiter(numbers, np.int32, len(texts)))
    images = [image for _, (_, image, *_) in rows]
    locate = locate_pictures(image_dir, [*images, *(image for _, image in sides)], rows.folder)
    queries = tuple(make_item(text, image, locate, where) for where, (text, image, *_) in rows)
    candidates = tuple(_candidate(side, locate) for side in sides)
    if ("", "") in sides:
        log.info("%s has an empty text among its candidates; it is embedded as such", name)
    first = {size: np.array([1.0, *[0.0] * (size - 1)]) for size in set(map(len, choices))}
    relevance = tuple(first[len(row)] for row in choices)
    return RankingTask(
        name, group, queries, candidates, tuple(choices), relevance, candidate_role=candidate_role or "candidate"
    )


def _check_targets(texts: Sequence[str], images: Sequence[str], where: str) -> None:
    if len(texts) != len(images):
        raise UserError(f"{where} has {len(texts)} tgt_text and {len(images)} tgt_img_path; give as many of both")
    if len(texts) < 2:
        raise UserError(f"{where} has {len(texts)} targets: nothing to rank; target 0 is right, the others are wrong")
    if not texts[0] and not images[0]:
        raise UserError(f"{where}: the positive is not among the candidates: target 0 has neither a text nor a picture")


def _candidate(side: tuple[str, str], locate: Callable[[str], Path]) -> Item:
    """Return the item of a target; a wrong one may be an empty text, as in some public tasks."""
    text, image = side
    return make_item(text, image, locate, f"target {text[:60]!r}") if text or image else Item(("",))
