"""Evaluate an embedder on ranking tasks: embed, compare in float32, score, average."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from torch import Tensor

from gen2embed import metrics
from gen2embed.data.mmeb import Benchmark
from gen2embed.encoder.engine import Encoded, Engine, Model
from gen2embed.log import log
from gen2embed.types import ROLES, Item, RankingTask, Role

TOP = 5  # best choices that the predictions keep


@dataclass(frozen=True)
class Evaluation:
    """Scores as plain values (the keys of `results.json`), and a row a query."""

    scores: dict[str, Any]
    predictions: pa.Table
    encoded: tuple[Encoded, ...]


def evaluate(model: Model, engine: Engine, benchmark: Benchmark, resamples: int = 1000, seed: int = 0) -> Evaluation:
    """Score `model` on every task of `benchmark`.

    Precision@1 with a bootstrap 95 % interval, the same with ties resolved against the model, and chance, per task;
    averages are unweighted means over tasks: per group and overall, only where every task of them was run.
    """
    embedded = {role: _encode(model, engine, benchmark.tasks, role) for role in ROLES}
    tasks, rows, outcomes = {}, [], {}
    for task in benchmark.tasks:
        queries = embedded[task.query_role].of(task.queries)
        candidates = embedded[task.candidate_role].of(task.candidates)
        predictions = [_predict(task, i, query @ candidates.T) for i, query in enumerate(queries)]
        rows += predictions
        outcomes[task.name] = {
            key: np.array([p[key] for p in predictions], float) for key in ("correct", "pessimistic")
        }
        sizes = [len(choices) for choices in task.choices]
        tasks[task.name] = {
            "group": task.group,
            "queries": len(task.queries),
            "candidates": sizes[0] if len(set(sizes)) == 1 else [min(sizes), max(sizes)],
            **_score([outcomes[task.name]], [task], resamples, seed),
        }

    def average(names: Sequence[str]) -> dict[str, Any] | None:
        if not set(names) <= set(tasks):
            return None
        chosen = [task for task in benchmark.tasks if task.name in names]
        return {"tasks": len(names), **_score([outcomes[name] for name in names], chosen, resamples, seed)}

    scores = {
        "benchmark": benchmark.name,
        "tasks": tasks,
        "groups": {group: average(names) for group, names in benchmark.groups.items()},
        "overall": average([name for names in benchmark.groups.values() for name in names]),
    }
    _warn_at_chance(scores)
    encoded = tuple(side.encoded for side in embedded.values())
    return Evaluation(scores, pa.Table.from_pylist(rows), encoded)


@dataclass(frozen=True)
class _Embedded:
    rows: dict[int, int]  # id of an item -> row
    encoded: Encoded

    def of(self, items: Sequence[Item]) -> Tensor:
        return self.encoded.vectors[[self.rows[id(item)] for item in items]]


def _encode(model: Model, engine: Engine, tasks: Sequence[RankingTask], role: Role) -> _Embedded:
    """Every item that some task uses in `role`, in one run of the engine."""
    items = [
        item
        for task in tasks
        for side, its_role in ((task.queries, task.query_role), (task.candidates, task.candidate_role))
        if its_role == role
        for item in side
    ]
    title = {"query": "queries", "candidate": "candidates"}[role]
    return _Embedded({id(item): row for row, item in enumerate(items)}, engine.encode(model, items, role, title))


def _predict(task: RankingTask, index: int, similarities: Tensor) -> dict[str, Any]:
    scores = similarities[list(task.choices[index])].numpy()
    relevance = np.array(task.relevance[index])
    correct, pessimistic = metrics.hits(scores, relevance)
    top = np.argsort(-scores, kind="stable")[:TOP]
    return {
        "task": task.name,
        "query": index,
        "correct": correct,
        "pessimistic": pessimistic,
        "rank": metrics.rank(scores, relevance),
        "top": top.tolist(),
        "top_similarities": scores[top].tolist(),
    }


def _score(outcomes: Sequence[dict[str, np.ndarray]], tasks: Sequence[RankingTask], resamples: int, seed: int) -> dict:
    correct = [outcome["correct"] for outcome in outcomes]
    return {
        "precision@1": float(np.mean([outcome.mean() for outcome in correct])),
        "ci95": list(metrics.bootstrap(correct, resamples, seed)),
        "pessimistic": float(np.mean([outcome["pessimistic"].mean() for outcome in outcomes])),
        "chance": float(np.mean([metrics.chance([np.array(row) for row in task.relevance]) for task in tasks])),
    }


def _warn_at_chance(scores: dict[str, Any]) -> None:
    at_chance = [name for name, task in scores["tasks"].items() if task["ci95"][0] <= task["chance"]]
    if len(at_chance) == len(scores["tasks"]):
        log.warning("no task is above chance: check that the weights, the prompt and the convention belong together")
    elif at_chance:
        log.info("not above chance: %s", ", ".join(at_chance))
