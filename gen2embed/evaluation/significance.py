"""Whether the second of two runs on the same queries is better than the first, on plain arrays of right and wrong.

A task: McNemar's exact test (Psychometrika 1947) on the queries that one run has right and the other wrong; over many
tasks corrected by Holm's step-down rule (Scand. J. Statist. 1979). An average over tasks: the paired bootstrap (Efron
and Tibshirani 1993, chapters 13 and 16), which draws the queries of every task anew, each with both of its outcomes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Difference:
    """The difference of two means.

    Attributes:
        mean: The second mean less the first.
        low: The lower end of its 95 % percentile interval.
        high: The upper end.
        p: The two-sided p of no difference.
    """

    mean: float
    low: float
    high: float
    p: float


def mcnemar(first: np.ndarray, second: np.ndarray) -> float:
    """Return the two-sided p of McNemar's exact test; 1 where no query tells the runs apart.

    Args:
        first: Whether the first run has each query right, (n,) bool.
        second: Likewise for the second run.
    """
    gained, lost = _discordant(first, second)
    return float(stats.binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def is_below(right: int, queries: int, chance: float) -> bool:
    """Return whether a number of right answers is significantly below chance: binomial test, one-sided at 2.5 %."""
    return bool(stats.binomtest(right, queries, chance, alternative="less").pvalue < 0.025)


def holm(ps: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p of each test of a family, in the order of `ps`."""
    order = np.argsort(ps, kind="stable")
    scaled = np.asarray(ps, float)[order] * np.arange(len(ps), 0, -1)
    adjusted = np.empty(len(ps))
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1)
    return [float(p) for p in adjusted]


def paired_bootstrap(
    first: Sequence[np.ndarray], second: Sequence[np.ndarray], resamples: int, seed: int
) -> Difference:
    """Return the difference of two runs' unweighted means over tasks.

    p is twice the share of resamples on the rarer side of zero. Those at zero count as on that side, and one is added,
    so that p is never 0.

    Args:
        first: For each task the outcomes of its queries, (n,) bool.
        second: Likewise for the other run.
        resamples: How often the queries are drawn.
        seed: The seed of the draws.
    """
    rng = np.random.default_rng(seed)
    mean, means = 0.0, np.zeros(resamples)
    for before, after in zip(first, second, strict=True):
        # A query's difference is 1, -1 or 0, so a resample's mean is decided by how often it draws each of the three.
        gained, lost = _discordant(before, after)
        queries = len(before)
        counts = np.array([gained, lost, queries - gained - lost])
        drawn = rng.multinomial(queries, counts / queries, size=resamples)
        means += (drawn[:, 0] - drawn[:, 1]) / queries / len(first)
        mean += (gained - lost) / queries / len(first)
    low, high = np.quantile(means, (0.025, 0.975))
    # A sum of fractions that cancel may miss zero by a rounding.
    rarer = min((means <= 1e-12).sum(), (means >= -1e-12).sum())
    return Difference(mean, float(low), float(high), min(1.0, 2 * (float(rarer) + 1) / (resamples + 1)))


def _discordant(first: np.ndarray, second: np.ndarray) -> tuple[int, int]:
    """Return how many queries the second alone has right, and how many the first alone."""
    return int((second & ~first).sum()), int((first & ~second).sum())
