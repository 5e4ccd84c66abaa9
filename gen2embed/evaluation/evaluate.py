"""Evaluate an embedder on ranking tasks: embed, rank in float32, score, average."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import torch
from jaxtyping import Float
from torch import Tensor

from gen2embed.data.benchmark import Benchmark
from gen2embed.encoding.collapse import warn_if_collapsed
from gen2embed.encoding.compression import Compression, Precision, compress, decode, size_in_bytes
from gen2embed.encoding.engine import Encoded, Engine, Model
from gen2embed.evaluation import metrics
from gen2embed.evaluation.significance import is_below
from gen2embed.evaluation.task import RECALLS, ScoredTask, rank_query
from gen2embed.types import Item, RankingTask
from gen2embed.utils.choices import ROLES, Role
from gen2embed.utils.log import log
from gen2embed.utils.rank_group import ALONE, RankGroup

ENOUGH = 20  # queries that a task must have, or its interval is too wide to say whether it is above chance


@dataclass(frozen=True)
class Evaluation:
    """The outcome of an evaluation.

    Attributes:
        scores: Plain values, by the keys of `results.json`.
        predictions: A row a query, the columns of `predictions.parquet`.
        encoded: The vectors of each role, with what encoding them took.
    """

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
    ranks: RankGroup = ALONE,
    warned: set[str] | None = None,
) -> Evaluation:
    """Score a model on every task of a benchmark.

    1. Embed each item once in each role in which some task uses it.
    2. Rank the candidates of each query by cosine, and score each task: precision@1 with a bootstrap 95 % interval, the
       same with ties against the model, chance, recall@k and the mean reciprocal rank.
    3. Average over tasks, unweighted: per group, per further set of tasks, and overall. An average is None unless all
       of its tasks were run.
    4. Rank and average the same vectors at smaller sizes and precisions.
    5. Warn about vectors that are all alike, and about scores that are not above chance.

    Args:
        model: Embeds items.
        engine: Runs the model over many items.
        benchmark: Tasks, and the sets of them that are averaged.
        resamples: How often the bootstrap draws the queries.
        seed: The seed of the bootstrap.
        compression: Sizes and precisions of step 4; None skips it.
        ranks: Each embeds its part of the items, and returns all scores; rank 0 warns.
        warned: The warnings that are not repeated; new ones are added to it.

    Raises:
        UserError: For a size or a precision that the vectors cannot have.
    """
    warned = set() if warned is None else warned
    sides = {role: _embed(model, engine, benchmark.tasks, role, ranks) for role in ROLES}
    encoded = tuple(side.encoded for side in sides.values())
    if ranks.rank == 0:
        _warn_about_collapse(sides, warned)
    settings = compression.settings(max(side.vectors.shape[1] for side in encoded)) if compression else []

    scored, rows = _score_tasks(benchmark.tasks, sides)
    scores = _average(benchmark, scored, resamples, seed)
    if compression:
        scores["compression"] = [_score_smaller(benchmark, sides, *setting) for setting in settings]
    if ranks.rank == 0:
        _warn_about_chance(scores["tasks"], scored, warned)
    return Evaluation(scores, pa.Table.from_pylist(rows), encoded)


# --- step 1: embed --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Side:
    """The vectors of the items of one role, and the row of each by the id of its item."""

    rows: dict[int, int]
    encoded: Encoded

    def vectors(self, items: Sequence[Item]) -> Float[Tensor, "n d"]:
        return self.encoded.vectors[[self.rows[id(item)] for item in items]]


def _embed(model: Model, engine: Engine, tasks: Sequence[RankingTask], role: Role, ranks: RankGroup) -> _Side:
    """Embed every item that some task uses in a role, in one run of the engine."""
    items = {
        id(item): item
        for task in tasks
        for used, side in ((task.query_role, task.queries), (task.candidate_role, task.candidates))
        if used == role
        for item in side
    }
    title = {"query": "queries", "candidate": "candidates"}[role]
    rows = {key: row for row, key in enumerate(items)}
    return _Side(rows, engine.encode(model, list(items.values()), role, title, ranks))


# --- step 2: rank and score -----------------------------------------------------------------------------------------


def _score_tasks(
    tasks: Sequence[RankingTask], sides: Mapping[Role, _Side], change: Callable[[Tensor], Tensor] | None = None
) -> tuple[dict[str, ScoredTask], list[dict[str, Any]]]:
    """Return the outcomes of each task by name, and a row a query; `change` applies to vectors before ranking."""
    scored, rows = {}, []
    for task in tasks:
        queries = sides[task.query_role].vectors(task.queries)
        candidates = sides[task.candidate_role].vectors(task.candidates)
        if change is not None:
            queries, candidates = change(queries), change(candidates)
        ranked = [rank_query(task, index, query, candidates) for index, query in enumerate(queries)]
        scored[task.name] = ScoredTask(task, ranked)
        rows += [{key: value for key, value in row.items() if key not in RECALLS} for row in ranked]
    return scored, rows


# --- step 3: average ------------------------------------------------------------------------------------------------


def _average(benchmark: Benchmark, scored: Mapping[str, ScoredTask], resamples: int, seed: int) -> dict[str, Any]:
    """Return the scores of each task, and their averages, by the keys of `results.json`."""

    def average(names: Sequence[str]) -> dict[str, Any] | None:
        if not set(names) <= set(scored):
            return None
        return {"tasks": len(names), **_means([scored[name] for name in names], resamples, seed)}

    return {
        "benchmark": benchmark.name,
        "tasks": {name: {**task.counts, **_means([task], resamples, seed)} for name, task in scored.items()},
        "groups": {group: average(names) for group, names in benchmark.groups.items()},
        "averages": {name: average(names) for name, names in benchmark.averages.items()},
        "overall": average([name for names in benchmark.groups.values() for name in names]),
    }


def _means(tasks: Sequence[ScoredTask], resamples: int, seed: int) -> dict[str, Any]:
    """Return unweighted means over tasks."""
    return {
        "precision@1": metrics.mean([metrics.mean(task.correct) for task in tasks]),
        "ci95": list(metrics.bootstrap([task.correct for task in tasks], resamples, seed)),
        "pessimistic": metrics.mean([metrics.mean(task.pessimistic) for task in tasks]),
        "chance": metrics.mean([task.chance for task in tasks]),
        **{name: metrics.mean([task.ranks[name] for task in tasks]) for name in tasks[0].ranks},
    }


# --- step 4: smaller vectors ----------------------------------------------------------------------------------------


def _score_smaller(benchmark: Benchmark, sides: Mapping[Role, _Side], dim: int, precision: Precision) -> dict[str, Any]:
    """Return the scores at one size and precision: unweighted means over the tasks that were run, all and by group."""
    scored, _ = _score_tasks(benchmark.tasks, sides, partial(_shrink, dim, precision))

    def mean(names: Iterable[str], key: str = "correct") -> float:
        return metrics.mean([metrics.mean(getattr(scored[name], key)) for name in names])

    groups = {group: [name for name in names if name in scored] for group, names in benchmark.groups.items()}
    return {
        "dim": dim,
        "precision": precision,
        "bytes": size_in_bytes(dim, precision),
        "precision@1": mean(scored),
        "pessimistic": mean(scored, "pessimistic"),
        "groups": {group: mean(names) for group, names in groups.items() if names},
    }


def _shrink(dim: int, precision: Precision, vectors: Float[Tensor, "n d"]) -> Float[Tensor, "n dim"]:
    """Return vectors whose inner products rank as smaller vectors do, and tie where they do."""
    decoded = decode(compress(vectors, dim, precision))
    return torch.nn.functional.normalize(decoded, dim=-1).float() if precision == "int8" else decoded


# --- step 5: warn ---------------------------------------------------------------------------------------------------


def _warn_about_collapse(sides: Mapping[Role, _Side], warned: set[str]) -> None:
    for role, side in sides.items():
        if role not in warned and warn_if_collapsed(side.encoded.vectors.numpy(), role):
            warned.add(role)


def _warn_about_chance(tasks: Mapping[str, Any], scored: Mapping[str, ScoredTask], warned: set[str]) -> None:
    """Warn about tasks that are significantly below chance, or not significantly above it.

    Random embeddings score at chance. Those below it carry information that favours the wrong choices.
    """
    enough = {name: task for name, task in tasks.items() if task["queries"] >= ENOUGH}
    # A test by counts: where no query is right, as can happen at chance among 1000 candidates, the bootstrap's interval
    # is [0, 0] and would call the task below chance.
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
            "below chance (%s): the model prefers wrong choices; those of SugarCrepe mislead on purpose, and on other "
            "tasks check whether the annotations swap right and wrong",
            ", ".join(below),
        )
