"""Ranking metrics from similarities, on plain arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torchmetrics import MeanMetric


def hits(scores: np.ndarray, relevance: np.ndarray) -> tuple[bool, bool]:
    """Precision@1 of one query: as the benchmarks count it, and with ties resolved against it.

    scores, relevance: (k,), in the order of the annotations. The first figure takes the first index of the largest
    score, so that a tie with the right choice at index 0 counts as right; the second counts any tie with a wrong
    choice as wrong.
    """
    best = scores == scores.max()
    return bool(relevance[scores.argmax()] > 0), bool((relevance[best] > 0).all())


def rows_right(rows: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Of each row, whether all of its queries are right; rows, right: (n,), the queries of a row side by side."""
    return np.logical_and.reduceat(right, np.flatnonzero(np.diff(rows, prepend=rows[0] - 1)))


def rank(scores: np.ndarray, relevance: np.ndarray) -> int:
    """Rank from 1 of the best relevant choice; choices that tie with it count as before it (pessimistic)."""
    best = scores[relevance > 0].max()
    return int((scores[relevance <= 0] >= best).sum()) + 1


def recall(scores: np.ndarray, relevance: np.ndarray, k: int) -> float:
    """Share of the relevant choices among the first k; ties count against it, as in `rank`."""
    relevant, others = scores[relevance > 0], scores[relevance <= 0]
    ranks = (others >= relevant[:, None]).sum(axis=1) + (relevant > relevant[:, None]).sum(axis=1) + 1
    return float((ranks <= k).mean())


def mean(values: Sequence[float] | np.ndarray) -> float:
    """The mean over queries or tasks, in double precision."""
    metric = MeanMetric(sync_on_compute=False).set_dtype(torch.float64)  # one rank scores, the others have gone on
    metric.update(torch.as_tensor(np.asarray(values, float)))
    return float(metric.compute())


def chance(relevance: Sequence[Sequence[float] | np.ndarray]) -> float:
    """Expected precision@1 of a random ranking: the mean share of relevant choices."""
    return mean([(np.asarray(grades) > 0).mean() for grades in relevance])


def bootstrap(outcomes: Sequence[np.ndarray], resamples: int, seed: int) -> tuple[float, float]:
    """95 % percentile interval of the unweighted mean over tasks, resampling the queries within each task.

    outcomes: for each task the outcomes of its queries, (n,).
    """
    rng = np.random.default_rng(seed)
    means = np.zeros(resamples)
    for outcome in outcomes:
        means += outcome[rng.integers(len(outcome), size=(resamples, len(outcome)))].mean(axis=1) / len(outcomes)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)
