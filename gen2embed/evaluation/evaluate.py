"""Evaluate an embedder on ranking tasks: embed, compare in float32, score, average."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from gen2embed.data.benchmark import Benchmark, task_digest
from gen2embed.encoding.collapse import warn_if_collapsed
from gen2embed.encoding.compression import Compression, Precision, compress, decode, size_in_bytes
from gen2embed.encoding.engine import Encoded, Engine, Model
from gen2embed.evaluation import metrics
from gen2embed.evaluation.significance import is_below
from gen2embed.types import Item, RankingTask
from gen2embed.utils.choices import ROLES, Role
from gen2embed.utils.log import log
from gen2embed.utils.rank_group import ALONE, RankGroup

TOP = 5  # best choices that the predictions keep
RECALL_AT = (5, 10)
ENOUGH = 20  # queries of a task whose interval says whether it is at chance


@dataclass(frozen=True)
class Evaluation:
    """Scores as plain values (the keys of `results.json`), and a row a query."""

    scores: dict[str, Any]
    predictions: pa.Table
    encoded: tuple[Encoded, ...]


def evaluate(
    model: Model,
    engine: Engine,
    benchmark: Benchmark,
    resamples: int = 1000,
    seed: int = 0,
    compression: Compression | None = None,
    peers: RankGroup = ALONE,
    warned: set[str] | None = None,
) -> Evaluation:
    """Score `model` on every task of `benchmark`.

    Per task: precision@1 with a bootstrap 95 % interval, the same with ties against the model, chance, recall@k and
    the mean reciprocal rank. Averages are unweighted means over tasks: per group, per further set of tasks, and
    overall, only where every task of them was run.
    compression: at which sizes and precisions the same vectors are scored again; None is at none.
    peers: each embeds its part of the items, and has all scores.
    warned: what need not be said again, to which is added what is: the roles that are collapsed, and scores at chance.
    """
    warned = set() if warned is None else warned
    embedded = {role: _encode(model, engine, benchmark.tasks, role, peers) for role in ROLES}
    if peers.rank == 0:
        for role, side in embedded.items():
            if role not in warned and warn_if_collapsed(side.encoded.vectors.numpy(), role):
                warned.add(role)
    width = max(its.encoded.vectors.shape[1] for its in embedded.values())
    settings = compression.settings(width) if compression else []
    smaller: dict[tuple[int, Precision], dict[str, _Scored]] = {setting: {} for setting in settings}
    scored, rows = {}, []
    for task in benchmark.tasks:
        queries = embedded[task.query_role].of(task.queries)
        candidates = embedded[task.candidate_role].of(task.candidates)
        outcome = _predict(task, queries, candidates)
        rows += [{key: value for key, value in row.items() if key not in _AVERAGED} for row in outcome]
        scored[task.name] = _Scored(task, outcome)
        for setting, its in smaller.items():
            outcome = _predict(task, _compressed(queries, *setting), _compressed(candidates, *setting))
            its[task.name] = _Scored(task, outcome)

    def average(names: Sequence[str]) -> dict[str, Any] | None:
        if not set(names) <= set(scored):
            return None
        return {"tasks": len(names), **_score([scored[name] for name in names], resamples, seed)}

    scores: dict[str, Any] = {
        "benchmark": benchmark.name,
        "tasks": {name: {**its.counts, **_score([its], resamples, seed)} for name, its in scored.items()},
        "groups": {group: average(names) for group, names in benchmark.groups.items()},
        "averages": {which: average(names) for which, names in benchmark.averages.items()},
        "overall": average([name for names in benchmark.groups.values() for name in names]),
    }
    if compression:
        scores["compression"] = [
            {"dim": dim, "precision": precision, "bytes": size_in_bytes(dim, precision), **_run(benchmark, its)}
            for (dim, precision), its in smaller.items()
        ]
    if peers.rank == 0:
        _warn_about_chance(scores["tasks"], scored, warned)
    encoded = tuple(side.encoded for side in embedded.values())
    return Evaluation(scores, pa.Table.from_pylist(rows), encoded)


@dataclass(frozen=True)
class _Embedded:
    rows: dict[int, int]  # id of an item -> row
    encoded: Encoded

    def of(self, items: Sequence[Item]) -> Tensor:
        return self.encoded.vectors[[self.rows[id(item)] for item in items]]


def _encode(model: Model, engine: Engine, tasks: Sequence[RankingTask], role: Role, peers: RankGroup) -> _Embedded:
    """Every item that some task uses in `role`, in one run of the engine."""
    items = {
        id(item): item
        for task in tasks
        for side, its_role in ((task.queries, task.query_role), (task.candidates, task.candidate_role))
        if its_role == role
        for item in side
    }
    title = {"query": "queries", "candidate": "candidates"}[role]
    rows = {key: row for row, key in enumerate(items)}
    return _Embedded(rows, engine.encode(model, list(items.values()), role, title, peers))


_AVERAGED = tuple(f"recall@{k}" for k in RECALL_AT)


def _compressed(vectors: Tensor, dim: int, precision: Precision) -> Tensor:
    """Vectors whose inner products rank as smaller vectors do, and tie where they do."""
    decoded = decode(compress(vectors, dim, precision))
    return torch.nn.functional.normalize(decoded, dim=-1).float() if precision == "int8" else decoded


def _run(benchmark: Benchmark, scored: dict[str, _Scored]) -> dict[str, Any]:
    """Unweighted means over the tasks that were run: all of them, also with ties against the model, and by group."""

    def mean(names: Iterable[str], key: str = "correct") -> float:
        return metrics.mean([metrics.mean(getattr(scored[name], key)) for name in names])

    groups = {group: [name for name in names if name in scored] for group, names in benchmark.groups.items()}
    return {
        "precision@1": mean(scored),
        "pessimistic": mean(scored, "pessimistic"),
        "groups": {group: mean(names) for group, names in groups.items() if names},
    }


def _predict(task: RankingTask, queries: Tensor, candidates: Tensor) -> list[dict[str, Any]]:
    """A row a query."""
    return [_predict_one(task, index, query, candidates) for index, query in enumerate(queries)]


def _predict_one(task: RankingTask, index: int, query: Tensor, candidates: Tensor) -> dict[str, Any]:
    # Row by row rather than a matrix product, whose kernels may round equal candidates differently at its edges.
    scores = (candidates[torch.as_tensor(task.choices[index])] * query).sum(dim=-1).numpy()
    relevance = np.asarray(task.relevance[index])
    correct, pessimistic = metrics.hits(scores, relevance)
    top = np.argsort(-scores, kind="stable")[:TOP]
    return {
        "task": task.name,
        "query": index,
        "row": index if task.rows is None else task.rows[index],
        "correct": pessimistic if task.strict else correct,
        "pessimistic": pessimistic,
        "rank": metrics.rank(scores, relevance),
        "top": top.tolist(),
        "top_similarities": scores[top].tolist(),
        **{name: metrics.recall(scores, relevance, k) for name, k in zip(_AVERAGED, RECALL_AT, strict=True)},
    }


class _Scored:
    """The outcomes of a task: of its rows, and for the ranks of its queries."""

    def __init__(self, task: RankingTask, outcome: Sequence[dict[str, Any]]) -> None:
        rows, *right = (np.array([row[key] for row in outcome]) for key in ("row", "correct", "pessimistic"))
        self.correct, self.pessimistic = (metrics.rows_right(rows, its).astype(float) for its in right)
        tied = [len(row["top"]) > 1 and row["top_similarities"][0] == row["top_similarities"][1] for row in outcome]
        self.right_or_tied = int(np.logical_or(self.correct > 0, ~metrics.rows_right(rows, ~np.array(tied))).sum())
        self.chance = metrics.chance(task.relevance) if task.chance is None else task.chance
        self.ranks = (
            {}
            if task.strict
            else {
                **{name: metrics.mean([row[name] for row in outcome]) for name in _AVERAGED},
                "mrr": metrics.mean([1 / row["rank"] for row in outcome]),
            }
        )
        sizes = [len(choices) for choices in task.choices]
        self.counts = {
            "group": task.group,
            "queries": len(self.correct),
            "candidates": sizes[0] if len(set(sizes)) == 1 else [min(sizes), max(sizes)],
            "digest": task_digest(task),
        }


def _score(tasks: Sequence[_Scored], resamples: int, seed: int) -> dict[str, Any]:
    """Unweighted means over tasks."""
    return {
        "precision@1": metrics.mean([metrics.mean(task.correct) for task in tasks]),
        "ci95": list(metrics.bootstrap([task.correct for task in tasks], resamples, seed)),
        "pessimistic": metrics.mean([metrics.mean(task.pessimistic) for task in tasks]),
        "chance": metrics.mean([task.chance for task in tasks]),
        **{name: metrics.mean([task.ranks[name] for task in tasks]) for name in tasks[0].ranks},
    }


def _warn_about_chance(tasks: Mapping[str, Any], scored: Mapping[str, _Scored], warned: set[str]) -> None:
    """Warn about tasks at chance and below it, as far as their queries tell; add to `warned` what was said.

    Embeddings that carry nothing score at chance. Below it they carry something that the wrong choices have more of.
    """
    enough = {name: task for name, task in tasks.items() if task["queries"] >= ENOUGH}
    # Not by the bootstrap, whose interval is [0, 0] where nothing is right, as with a thousand candidates at chance.
    below = [
        name for name, task in enough.items() if is_below(scored[name].right_or_tied, task["queries"], task["chance"])
    ]
    at_chance = [name for name, task in enough.items() if task["ci95"][0] <= task["chance"] and name not in below]
    if at_chance and "chance" not in warned:
        warned.add("chance")
        which = "no task is above chance" if at_chance == [*enough] else f"not above chance ({', '.join(at_chance)})"
        log.warning("%s: check that the weights, the prompt and the convention belong together", which)
    if below and "below chance" not in warned:
        warned.add("below chance")
        log.warning(
            "below chance (%s): the model prefers the wrong choices, as it may where they are made to mislead, as "
            "SugarCrepe's are; on other tasks look for answers that are swapped in the annotations",
            ", ".join(below),
        )
