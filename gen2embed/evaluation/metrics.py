"""Ranking metrics from similarities, on plain arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torchmetrics import MeanMetric


def hits(scores: np.ndarray, relevance: np.ndarray) -> tuple[bool, bool]:
    """Return precision@1 of one query: as the benchmarks count it, and with ties against the model.

    The first figure takes the first index of the largest score, so that a tie with the right choice at index 0 counts
    as right. The second counts any tie with a wrong choice as wrong.

    Args:
        scores: The scores of the choices, (k,), in the order of the annotations.
        relevance: The grades of the choices, (k,); above 0 is right.
    """
    best = scores == scores.max()
    return bool(relevance[scores.argmax()] > 0), bool((relevance[best] > 0).all())


def rows_right(rows: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return for each row whether all of its queries are right.

    Args:
        rows: The row of each query, (n,); queries of one row lie side by side.
        right: Whether each query is right, (n,).
    """
    return np.logical_and.reduceat(right, np.flatnonzero(np.diff(rows, prepend=rows[0] - 1)))


def rank(scores: np.ndarray, relevance: np.ndarray) -> int:
    """Return the rank, from 1, of the best relevant choice; choices that tie with it come before it."""
    best = scores[relevance > 0].max()
    return int((scores[relevance <= 0] >= best).sum()) + 1


def recall(scores: np.ndarray, relevance: np.ndarray, k: int) -> float:
    """Return the share of the relevant choices among the first k; ties count against the model, as in `rank`."""
    relevant, others = scores[relevance > 0], scores[relevance <= 0]
    ranks = (others >= relevant[:, None]).sum(axis=1) + (relevant > relevant[:, None]).sum(axis=1) + 1
    return float((ranks <= k).mean())


def mean(values: Sequence[float] | np.ndarray) -> float:
    """Return the mean over queries or tasks, in double precision."""
    metric = MeanMetric(sync_on_compute=False).set_dtype(torch.float64)  # the other ranks do not score
    metric.update(torch.as_tensor(np.asarray(values, float)))
    return float(metric.compute())


def chance(relevance: Sequence[Sequence[float] | np.ndarray]) -> float:
    """Return the expected precision@1 of a random ranking: the mean share of relevant choices."""
    return mean([(np.asarray(grades) > 0).mean() for grades in relevance])


def bootstrap(outcomes: Sequence[np.ndarray], resamples: int, seed: int) -> tuple[float, float]:
    """Return the 95 % percentile interval of the unweighted mean over tasks; queries are drawn within each task.

    Args:
        outcomes: For each task the outcomes of its queries, (n,).
        resamples: How often the queries are drawn.
        seed: The seed of the draws.
    """
    rng = np.random.default_rng(seed)
    means = np.zeros(resamples)
    for outcome in outcomes:
        means += outcome[rng.integers(len(outcome), size=(resamples, len(outcome)))].mean(axis=1) / len(outcomes)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)
