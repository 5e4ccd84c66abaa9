"""What the report's explorer of queries shows: some of each task, with their answers, as plain values for the page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from gen2embed.data import pictures as images
from gen2embed.data.benchmark import Benchmark, task_digest
from gen2embed.reports.evaluation.results import Result, Run
from gen2embed.reports.html import shortened, thumbnail
from gen2embed.types import ImagePart, Item, RankingTask
from gen2embed.utils.errors import UserError
from gen2embed.utils.log import progress

WRONG = 0.75  # share of the queries shown, if there are as many wrong ones and as many right ones
RIGHT_ANSWERS = 3  # shown of a query
TEXT = 240  # characters shown of a text
THUMBNAIL, QUALITY = 96, 70  # pixels of a picture's longer side; of WebP


def explore(runs: Sequence[Run], benchmarks: Sequence[Benchmark], count: int, seed: int) -> dict[str, Any]:
    """At most `count` queries a task, chosen at random, wrong ones more than right ones, and the answers of each run.

    Items and pictures come once each, and are referred to by their places. Raises `UserError` for benchmarks that are
    not those of the runs, and for pictures that cannot be opened.
    """
    named = {benchmark.name: benchmark for benchmark in benchmarks}
    tasks: list[dict[str, Any]] = []
    shown = []
    for name, first in runs[0].results.items():
        _check(named.get(name), first, name)
        for task in named[name].tasks:
            columns = [run.results[name].predictions[task.name] for run in runs]
            chosen = choose(columns, count, np.random.default_rng([seed, *task.name.encode()]))
            tasks.append({"benchmark": name, "name": task.name})
            shown += [(len(tasks) - 1, task, query, _answers(task, query, columns)) for query in chosen]
    roots = [root for benchmark in benchmarks for root in benchmark.roots]
    images.check((picture for _, task, query, its in shown for picture in _pictures(task, query, its)), roots)
    shelf = _Shelf()
    with progress("drawing the report", len(shown), shown=len(shown) > 200) as advance:
        queries = []
        for number, task, query, its in shown:
            queries.append({"task": number, **_query(shelf, task, query, its)})
            advance()
    pictures, items = list(shelf.pictures), shelf.items
    return {
        "runs": [run.name for run in runs],
        "tasks": tasks,
        "queries": queries,
        "items": items,
        "pictures": pictures,
    }


def choose(columns: Sequence[Mapping[str, Any]], count: int, random: np.random.Generator) -> list[int]:
    """Some queries of a task, in its order; those that any run has wrong fill `WRONG` of the places, if they can."""
    right = np.logical_and.reduce([its["correct"] for its in columns])
    sides = np.flatnonzero(~right), np.flatnonzero(right)
    wrong = min(len(sides[0]), max(round(WRONG * count), count - len(sides[1])))
    counts = wrong, min(len(sides[1]), count - wrong)
    return sorted(
        int(i) for side, its in zip(sides, counts, strict=True) for i in random.choice(side, its, replace=False)
    )


def _check(benchmark: Benchmark | None, result: Result, name: str) -> None:
    there = {task.name: task_digest(task) for task in benchmark.tasks} if benchmark else {}
    evaluated = {task: its.get("digest") for task, its in result.scores["tasks"].items()}
    if there != evaluated:
        raise UserError(
            f"the queries of benchmark {name} are no longer those that were evaluated; evaluate again, or make the "
            "report with --queries 0"
        )


# --- one query ------------------------------------------------------------------------------------------------------


def _answers(task: RankingTask, query: int, columns: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Candidates of the task: right ones, and the best of each run with their similarities."""
    choices, grades = np.asarray(task.choices[query]), np.asarray(task.relevance[query])
    right = choices[grades > 0]
    runs = []
    for its in columns:
        best = its["top"][query]
        triples = zip(choices[best], its["top_similarities"][query], grades[best] > 0, strict=True)
        runs.append(
            {
                "correct": bool(its["correct"][query]),
                "tied": bool(its["correct"][query] and not its["pessimistic"][query]),
                "rank": int(its["rank"][query]),
                "top": [
                    (int(choice), round(float(similarity), 4), bool(is_right))
                    for choice, similarity, is_right in triples
                ],
            }
        )
    return {"right": right[:RIGHT_ANSWERS].tolist(), "rights": len(right), "runs": runs}


def _items(task: RankingTask, query: int, answers: Mapping[str, Any]) -> Iterator[Item]:
    yield task.queries[query]
    best = (choice for run in answers["runs"] for choice, *_ in run["top"])
    yield from (task.candidates[choice] for choice in (*answers["right"], *best))


def _pictures(task: RankingTask, query: int, answers: Mapping[str, Any]) -> Iterator[ImagePart]:
    return (picture for item in _items(task, query, answers) for picture in item.pictures)


def _query(shelf: _Shelf, task: RankingTask, query: int, answers: Mapping[str, Any]) -> dict[str, Any]:
    def place(choice: int) -> int:
        return shelf.place(task.candidates[choice])

    runs = [{**run, "top": [(place(choice), *rest) for choice, *rest in run["top"]]} for run in answers["runs"]]
    its = {"query": query, "row": None if task.rows is None else int(task.rows[query])}
    return {
        **its,
        "item": shelf.place(task.queries[query]),
        **answers,
        "right": [*map(place, answers["right"])],
        "runs": runs,
    }


class _Shelf:
    """Items by their places, each once, and their thumbnails, each distinct one once."""

    def __init__(self) -> None:
        self.items: list[list[dict[str, Any]]] = []
        self.pictures: dict[str, int] = {}
        self._places: dict[str, int] = {}

    def place(self, item: Item) -> int:
        if item.key not in self._places:
            self._places[item.key] = len(self.items)
            self.items.append([self._part(part) for part in item.parts])
        return self._places[item.key]

    def _part(self, part: str | ImagePart) -> dict[str, Any]:
        if isinstance(part, str):
            return {"text": shortened(part, TEXT)}
        drawn = thumbnail(part, THUMBNAIL, QUALITY)
        return {"picture": self.pictures.setdefault(drawn, len(self.pictures)), "name": str(part).rpartition("/")[2]}
