"""The report's explorer of queries: some queries of each task with their answers, as plain values for the page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from gen2embed.data.benchmark import Benchmark, task_digest
from gen2embed.data.pictures import check_pictures
from gen2embed.reports.evaluation.results import EvaluationRun, Result
from gen2embed.reports.html import part_values
from gen2embed.types import ImagePart, Item, RankingTask
from gen2embed.utils.errors import UserError
from gen2embed.utils.log import progress

WRONG = 0.75  # share of the queries shown, if there are as many wrong ones and as many right ones
RIGHT_ANSWERS = 3  # shown of a query
TEXT = 240  # characters shown of a text
THUMBNAIL, QUALITY = 96, 70  # pixels of a picture's longer side; of WebP


def explore(runs: Sequence[EvaluationRun], benchmarks: Sequence[Benchmark], count: int, seed: int) -> dict[str, Any]:
    """Return some queries of each task, chosen at random, wrong ones more than right ones, with each run's answers.

    Items and pictures come once each, and are referred to by their places.

    Args:
        runs: Runs of the same queries.
        benchmarks: The benchmarks of these runs.
        count: The most queries of each task.
        seed: The seed of the choice.

    Raises:
        UserError: For benchmarks that are not those of the runs, and for pictures that cannot be opened.
    """
    named = {benchmark.name: benchmark for benchmark in benchmarks}
    tasks: list[dict[str, Any]] = []
    chosen = []
    for name, first in runs[0].results.items():
        _check(named.get(name), first, name)
        for task in named[name].tasks:
            columns = [run.results[name].predictions[task.name] for run in runs]
            random = np.random.default_rng([seed, *task.name.encode()])
            numbers = choose_queries(columns, count, random)
            chosen += [(len(tasks), task, query, _answers(task, query, columns)) for query in numbers]
            tasks.append({"benchmark": name, "name": task.name})
    roots = [root for benchmark in benchmarks for root in benchmark.roots]
    check_pictures(
        (picture for _, task, query, answers in chosen for picture in _pictures(task, query, answers)), roots
    )
    shelf = _Shelf()
    with progress("drawing the report", len(chosen), shown=len(chosen) > 200) as advance:
        queries = []
        for number, task, query, answers in chosen:
            queries.append({"task": number, **_query(shelf, task, query, answers)})
            advance()
    return {
        "runs": [run.name for run in runs],
        "tasks": tasks,
        "queries": queries,
        "items": shelf.items,
        "pictures": list(shelf.pictures),
    }


def choose_queries(columns: Sequence[Mapping[str, Any]], count: int, random: np.random.Generator) -> list[int]:
    """Return some queries of a task, in its order; those that any run has wrong fill `WRONG` of the places.

    Args:
        columns: The predictions of each run on the task.
        count: The most queries.
        random: Draws them.
    """
    right = np.logical_and.reduce([predictions["correct"] for predictions in columns])
    sides = np.flatnonzero(~right), np.flatnonzero(right)
    wrong = min(len(sides[0]), max(round(WRONG * count), count - len(sides[1])))
    counts = wrong, min(len(sides[1]), count - wrong)
    return sorted(
        int(i) for side, size in zip(sides, counts, strict=True) for i in random.choice(side, size, replace=False)
    )


def _check(benchmark: Benchmark | None, result: Result, name: str) -> None:
    digests = {task.name: task_digest(task) for task in benchmark.tasks} if benchmark else {}
    if digests != {task: scores.get("digest") for task, scores in result.scores["tasks"].items()}:
        raise UserError(
            f"the queries of benchmark {name} are no longer those that were evaluated; evaluate again, or make the "
            "report with --queries 0"
        )


# --- one query ------------------------------------------------------------------------------------------------------


def _answers(task: RankingTask, query: int, columns: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return candidates of the task: right ones, and the best of each run with their similarities."""
    choices, grades = np.asarray(task.choices[query]), np.asarray(task.relevance[query])
    right = choices[grades > 0]
    runs = []
    for predictions in columns:
        best = predictions["top"][query]
        triples = zip(choices[best], predictions["top_similarities"][query], grades[best] > 0, strict=True)
        runs.append(
            {
                "correct": bool(predictions["correct"][query]),
                "tied": bool(predictions["correct"][query] and not predictions["pessimistic"][query]),
                "rank": int(predictions["rank"][query]),
                "top": [
                    (int(choice), round(float(similarity), 4), bool(is_right))
                    for choice, similarity, is_right in triples
                ],
            }
        )
    return {"right": right[:RIGHT_ANSWERS].tolist(), "rights": len(right), "runs": runs}


def _pictures(task: RankingTask, query: int, answers: Mapping[str, Any]) -> Iterator[ImagePart]:
    best = (choice for run in answers["runs"] for choice, *_ in run["top"])
    items = task.queries[query], *(task.candidates[choice] for choice in (*answers["right"], *best))
    return (picture for item in items for picture in item.pictures)


def _query(shelf: _Shelf, task: RankingTask, query: int, answers: Mapping[str, Any]) -> dict[str, Any]:
    """Return a query and its answers, with the places of their items."""

    def place(choice: int) -> int:
        return shelf.place(task.candidates[choice])

    runs = [{**run, "top": [(place(choice), *rest) for choice, *rest in run["top"]]} for run in answers["runs"]]
    return {
        "query": query,
        "row": None if task.rows is None else int(task.rows[query]),
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
        values: dict[str, Any] = part_values(part, TEXT, THUMBNAIL, QUALITY)
        if "picture" in values:
            values["picture"] = self.pictures.setdefault(values["picture"], len(self.pictures))
        return values
