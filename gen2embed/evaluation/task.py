"""One ranking task: the ranks of its queries' candidates, and the outcomes that its scores are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gen2embed.data.benchmark import task_digest
from gen2embed.evaluation import metrics
from gen2embed.types import RankingTask

TOP = 5  # best choices that the predictions keep
RECALLS = {f"recall@{k}": k for k in (5, 10)}


def rank_query(
    task: RankingTask, index: int, query: Float[Tensor, " d"], candidates: Float[Tensor, "n d"]
) -> dict[str, Any]:
    """Return a query's row of the predictions, and its recalls.

    Args:
        task: The task.
        index: The number of the query in the task.
        query: The unit vector of the query.
        candidates: The unit vectors of all candidates of the task.
    """
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
        **{name: metrics.recall(scores, relevance, k) for name, k in RECALLS.items()},
    }


class ScoredTask:
    """The outcomes of a task.

    Attributes:
        correct: For each row of the task, 1 if it is right, else 0, (n,).
        pessimistic: The same with ties against the model.
        right_or_tied: How many rows are right or tied.
        chance: Precision@1 of a random ranking.
        ranks: Means of what the ranks of right answers decide; empty where only the first place counts.
        counts: What `results.json` says of the task beside its scores.
    """

    def __init__(self, task: RankingTask, ranked: Sequence[dict[str, Any]]) -> None:
        rows, *right = (np.array([row[key] for row in ranked]) for key in ("row", "correct", "pessimistic"))
        self.correct, self.pessimistic = (metrics.rows_right(rows, outcomes).astype(float) for outcomes in right)
        tied = [len(row["top"]) > 1 and row["top_similarities"][0] == row["top_similarities"][1] for row in ranked]
        self.right_or_tied = int(np.logical_or(self.correct > 0, ~metrics.rows_right(rows, ~np.array(tied))).sum())
        self.chance = metrics.chance(task.relevance) if task.chance is None else task.chance
        self.ranks: dict[str, float] = {}
        if not task.strict:
            self.ranks = {name: metrics.mean([row[name] for row in ranked]) for name in RECALLS}
            self.ranks["mrr"] = metrics.mean([1 / row["rank"] for row in ranked])
        sizes = [len(choices) for choices in task.choices]
        self.counts = {
            "group": task.group,
            "queries": len(self.correct),
            "candidates": sizes[0] if len(set(sizes)) == 1 else [min(sizes), max(sizes)],
            "digest": task_digest(task),
        }
