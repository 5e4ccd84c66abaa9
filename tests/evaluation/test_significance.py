"""Tests of two runs on the same queries, against their definitions in loops."""

import math

import numpy as np
import pytest

from gen2embed.evaluation.significance import holm, mcnemar, paired_bootstrap


def outcomes(seed, size=60, better=0.2):
    random = np.random.default_rng(seed)
    first = random.random(size) < 0.4
    return first, np.where(random.random(size) < 0.6, first, random.random(size) < 0.4 + better)


@pytest.mark.parametrize("seed", range(5))
def test_mcnemar_against_a_sum(seed):
    """Twice the smaller tail of heads among fair coins, one for each query that tells the runs apart."""
    first, second = outcomes(seed)
    gained = sum(bool(b and not a) for a, b in zip(first, second, strict=True))
    lost = sum(bool(a and not b) for a, b in zip(first, second, strict=True))
    assert gained != lost > 0
    tail = sum(math.comb(gained + lost, k) for k in range(min(gained, lost) + 1)) / 2 ** (gained + lost)
    assert mcnemar(first, second) == pytest.approx(2 * tail)
    assert mcnemar(second, first) == pytest.approx(2 * tail)


def test_mcnemar_of_equal_runs():
    first, second = outcomes(0)
    assert mcnemar(first, first) == 1
    assert mcnemar(np.array([True, False]), np.array([False, True])) == 1
    assert mcnemar(first, second) < 1


def test_holm_against_its_rule():
    """Step down: the smallest is rejected at level a if it is below a / m, then the next if below a / (m - 1), ..."""
    ps = [0.01, 0.04, 0.03, 0.005, 0.5]
    adjusted = holm(ps)
    assert adjusted == pytest.approx([0.04, 0.09, 0.09, 0.025, 0.5])
    for level in (0.02, 0.03, 0.05, 0.089, 0.091, 0.6):
        rejected = set()
        for tried, index in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
            if ps[index] > level / (len(ps) - tried):
                break
            rejected.add(index)
        assert {index for index, p in enumerate(adjusted) if p <= level} == rejected
    assert holm([0.9, 0.8]) == [1, 1]
    assert holm([]) == []


def test_paired_bootstrap_against_drawn_queries():
    tasks = [outcomes(0, 50, 0.1), outcomes(1, 90, 0), outcomes(2, 20)]
    firsts, seconds = zip(*tasks, strict=True)
    random, means = np.random.default_rng(5), []
    for _ in range(8000):
        drawn = [random.integers(len(first), size=len(first)) for first in firsts]
        gains = [b[i].mean() - a[i].mean() for a, b, i in zip(firsts, seconds, drawn, strict=True)]
        means.append(np.mean(gains))
    found = paired_bootstrap(firsts, seconds, 50_000, seed=0)
    assert found.mean == pytest.approx(np.mean([b.mean() - a.mean() for a, b in tasks]))
    assert (found.low, found.high) == pytest.approx(np.quantile(means, (0.025, 0.975)), abs=0.008)
    assert found.p == pytest.approx(2 * np.mean(np.array(means) <= 1e-12), abs=0.025)
    assert 0.01 < found.p < 0.5
    back = paired_bootstrap(seconds, firsts, 50_000, seed=0)
    assert (back.low, back.high) == pytest.approx((-found.high, -found.low), abs=0.008)


def test_paired_bootstrap_keeps_pairs():
    """Runs that are right on the same queries differ in nothing, however few those are; unpaired, they would vary."""
    first, _ = outcomes(0)
    same = paired_bootstrap([first], [first], 500, seed=0)
    assert (same.mean, same.low, same.high, same.p) == (0, 0, 0, 1)
    clear = paired_bootstrap([np.zeros(40, bool)], [np.ones(40, bool)], 999, seed=0)
    assert (clear.mean, clear.low, clear.high, clear.p) == (1, 1, 1, 2 / 1000)
