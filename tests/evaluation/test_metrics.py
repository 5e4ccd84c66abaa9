"""Metrics against plain loops, on scores full of ties."""

import numpy as np
import pytest

from gen2embed.evaluation import metrics


def naive(scores, relevance):
    """(first index of the maximum is relevant, every maximum is relevant, pessimistic rank)."""
    best = max(scores)
    first = next(i for i, score in enumerate(scores) if score == best)
    all_right = all(relevance[i] > 0 for i, score in enumerate(scores) if score == best)
    right = max(score for score, grade in zip(scores, relevance, strict=True) if grade > 0)
    before = sum(score >= right for score, grade in zip(scores, relevance, strict=True) if grade <= 0)
    return relevance[first] > 0, all_right, before + 1


def test_hits_and_rank_against_loops():
    rng = np.random.default_rng(0)
    ties = 0
    for _ in range(500):
        scores = rng.integers(0, 4, size=rng.integers(1, 7)).astype(np.float32) - 2
        relevance = np.zeros(len(scores))
        relevance[rng.permutation(len(scores))[: rng.integers(1, 3)]] = rng.integers(1, 3)
        first, all_right, rank = naive(scores.tolist(), relevance.tolist())
        assert metrics.hits(scores, relevance) == (first, all_right)
        assert metrics.rank(scores, relevance) == rank
        ties += first and not all_right
    assert ties > 10


def test_chance():
    relevance = [np.array([1, 0, 0, 0]), np.array([1, 1])]
    assert metrics.chance(relevance) == pytest.approx((1 / 4 + 1) / 2)


def test_bootstrap_covers_and_repeats():
    rng = np.random.default_rng(0)
    outcomes = [rng.random(200) < share for share in (0.2, 0.8)]
    low, high = metrics.bootstrap(outcomes, 2000, seed=1)
    assert metrics.bootstrap(outcomes, 2000, seed=1) == (low, high)
    spread = np.sqrt(sum(o.var() / len(o) for o in outcomes)) / 2  # of the mean of two means
    mean = np.mean([o.mean() for o in outcomes])
    assert low == pytest.approx(mean - 1.96 * spread, abs=0.01)
    assert high == pytest.approx(mean + 1.96 * spread, abs=0.01)


def test_bootstrap_of_certainty():
    assert metrics.bootstrap([np.ones(10)], 100, seed=0) == (1.0, 1.0)
