"""What every miner of guarded clusters promises, on random subsets."""

from dataclasses import dataclass, replace
from typing import ClassVar

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from gen2embed import UserError
from gen2embed.mining.b3 import B3, mutual
from gen2embed.mining.base import Subset, check_members, check_miner_class
from gen2embed.mining.saha import SaHa, SaHaPaper, TopK
from gen2embed.types import no_progress

MINERS = [SaHa, TopK, B3]


def unit(rng, count, size=8):
    vectors = rng.normal(size=(count, size)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def make(seed, rows, distinct, queries=None, classification=False):
    """Rows with recurring positives; with fewer distinct `queries`, some have several positives."""
    rng = np.random.default_rng(seed)
    ids = np.arange(rows) if queries is None else rng.integers(queries, size=rows)
    positive = rng.permutation(np.arange(rows) % distinct)
    return Subset(unit(rng, max(rows, 60))[ids], unit(rng, distinct), positive, ids, classification)


subsets = st.builds(
    make,
    seed=st.integers(0, 10**6),
    rows=st.integers(20, 60),
    distinct=st.integers(2, 20),
    queries=st.one_of(st.none(), st.integers(5, 40)),
    classification=st.booleans(),
)


def may_not_meet(subset, a, b):
    """The rule in plain words: one's positive is a known positive of the other's query."""
    known = {row: {p for p, i in zip(subset.positive, subset.query_ids, strict=True) if i == subset.query_ids[row]}
             for row in (a, b)}  # fmt: skip
    return subset.positive[a] in known[b] or subset.positive[b] in known[a]


@pytest.mark.parametrize("miner", MINERS)
@given(subset=subsets, top_k=st.integers(1, 12))
def test_guarantees(miner, subset, top_k):
    steps = []
    clusters = miner(top_k=top_k).mine(subset, steps.append)
    check_progress(steps, subset, clusters)
    rows = [row for members in clusters for row in members]
    assert len(rows) == len(set(rows))  # no row twice, in a cluster or overall
    size = min(top_k + 1, len(set(subset.positive)))
    assert all(2 <= len(members) <= size for members in clusters)
    for members in clusters:
        for a in members:
            assert not any(may_not_meet(subset, a, b) for b in members if b != a)
    outside = set(range(len(subset.queries))) - set(rows)
    for members in clusters:  # a smaller cluster is one that no row left over may join
        if len(members) < size:
            assert all(any(may_not_meet(subset, row, member) for member in members) for row in outside)
    assert clusters == miner(top_k=top_k).mine(subset)


def check_progress(steps, subset, clusters):
    """Every row is counted once, as the clusters come about."""
    assert sum(steps) == len(subset.queries)
    assert min(steps) >= 0
    assert len(steps) >= len(clusters)


@given(subset=subsets, top_k=st.integers(1, 12))
def test_the_papers_miner_tells_every_row(subset, top_k):
    steps = []
    check_progress(steps, subset, SaHaPaper(top_k=top_k).mine(subset, steps.append))


@pytest.mark.parametrize("miner", MINERS)
@given(seed=st.integers(0, 10**6), rows=st.integers(6, 80), top_k=st.integers(1, 5))
def test_every_cluster_is_full_where_nothing_recurs(miner, seed, rows, top_k):
    clusters = miner(top_k=top_k).mine(make(seed, rows, rows))
    assert [len(members) for members in clusters] == [top_k + 1] * (rows // (top_k + 1))


def test_two_labels_make_clusters_of_two():
    """As HatefulMemes has: every cluster of three would hold a false negative."""
    subset = make(0, rows=41, distinct=2, classification=True)
    for miner in MINERS:
        clusters = miner(top_k=15).mine(subset)
        assert [len(members) for members in clusters] == [2] * 20
        assert all(len(set(subset.positive[members])) == 2 for members in clusters)


def test_a_label_that_is_too_frequent_makes_smaller_clusters():
    positive = np.array([0] * 10 + [1, 2, 3, 1, 2, 3])
    rng = np.random.default_rng(0)
    subset = Subset(unit(rng, 16), unit(rng, 4), positive, np.arange(16), True)
    sizes = [len(members) for members in SaHa(top_k=3).mine(subset)]
    assert max(sizes) == 4
    assert min(sizes) >= 2
    assert sum(sizes) < 16  # ten rows cannot all find another label among six


def test_saha_takes_the_least_similar_owners_and_topk_the_hardest():
    """One anchor whose owners' similarity to it falls with their index."""
    angles = np.concatenate(([0], np.linspace(0.1, 1.2, 12)))
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    subset = Subset(vectors, vectors, np.arange(13), np.arange(13), False)
    assert SaHa(top_k=3, pool_multiplier=2).mine(subset)[0] == [0, 6, 5, 4]  # of the six nearest
    assert TopK(top_k=3, pool_multiplier=2).mine(subset)[0] == [0, 1, 2, 3]
    labels = replace(subset, classification=True)
    assert SaHa(top_k=3, pool_multiplier=2).mine(labels)[0] == [0, 1, 2, 3]
    assert TopK(top_k=3, pool_multiplier=2, skip_ranks=3).mine(subset)[0] == [0, 3, 4, 5]  # itself is the first rank


FILTERS = {
    "max_similarity": (0.3, lambda sim, own: sim <= 0.3),
    "positive_share": (0.9, lambda sim, own: sim <= 0.9 * own),
    "positive_margin": (0.2, lambda sim, own: sim <= own - 0.2),
}


@pytest.mark.parametrize("miner", MINERS)
@pytest.mark.parametrize("name", FILTERS)
def test_filters_hold_between_all_rows_of_a_cluster(miner, name):
    subset = make(3, rows=120, distinct=120)
    towards = subset.candidates[subset.positive] + subset.queries  # so that pairs are similar
    candidates = subset.candidates.copy()
    candidates[subset.positive] = towards / np.linalg.norm(towards, axis=1, keepdims=True)
    subset = replace(subset, candidates=candidates)
    similarity = subset.queries @ candidates[subset.positive].T
    value, allowed = FILTERS[name]
    broken = []
    for chosen in (miner(top_k=3), miner(top_k=3, **{name: value})):
        pairs = [(a, b) for members in chosen.mine(subset) for a in members for b in members if a != b]
        assert len(pairs) > 100
        broken.append(sum(not allowed(similarity[a, b], similarity[a, a]) for a, b in pairs))
    assert broken[0] > 0
    assert broken[1] == 0


def test_floor_and_ranks_hold_between_anchor_and_owners():
    subset = make(4, rows=60, distinct=60)
    similarity = subset.queries @ subset.candidates[subset.positive].T
    ranks = (-similarity).argsort().argsort()
    for miner, low, first in ((SaHa(top_k=3), 0, 1), (SaHa(top_k=3, min_similarity=0.2, skip_ranks=4), 1, 0)):
        owners = [(members[0], row) for members in miner.mine(subset) for row in members[1:]]
        assert len(owners) > 20
        assert all(similarity[pair] >= 0.2 for pair in owners) == bool(low)
        assert any(ranks[pair] < 4 for pair in owners) == bool(first)


@pytest.mark.parametrize("miner", MINERS)
def test_doubtful_pairs_are_left_out(miner):
    subset = replace(make(5, rows=60, distinct=60), teacher=np.arange(60) / 60)
    assert {row for members in miner(top_k=3).mine(subset) for row in members} == set(range(60))
    rows = {row for members in miner(top_k=3, min_teacher_score=0.5).mine(subset) for row in members}
    assert min(rows) == 30
    assert len(rows) > 26


def test_b3_links_rows_that_prefer_each_other():
    """Against loops over all pairs, where every candidate has one owner."""
    rng = np.random.default_rng(0)
    positive = rng.permutation(40)
    preferred = np.stack([rng.permutation(40)[:12] for _ in range(40)])
    neighbours, starts = mutual(preferred, positive, 40)
    assert len(neighbours) > 40
    for row in range(40):
        expected = [row_b for row_b in range(40) if row_b != row
                    and positive[row_b] in preferred[row] and positive[row] in preferred[row_b]]  # fmt: skip
        assert neighbours[starts[row] : starts[row + 1]].tolist() == expected


def test_b3_finds_communities():
    """Eight far groups of eight rows come out as they are."""
    rng = np.random.default_rng(0)
    group = rng.permutation(np.arange(64) % 8)
    vectors = 12 * np.eye(8, 16, dtype=np.float32)[group] + rng.normal(size=(64, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    subset = Subset(vectors, vectors, np.arange(64), np.arange(64), False)
    clusters = B3(top_k=7, skip_ranks=1, window=7).mine(subset)
    alike = [len(set(group[members])) == 1 for members in clusters]
    assert len(clusters) == 8
    assert sum(alike) >= 6


def test_b3_without_its_library(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pymetis", None)
    with pytest.raises(UserError, match=r"mining=b3 needs pymetis: pip install 'gen2embed\[b3\]'"):
        B3(top_k=3).mine(make(0, 20, 20))


@pytest.mark.parametrize("miner", [*MINERS, SaHaPaper])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"queries": np.full((20, 8), np.nan, np.float32)}, "row 0 of the queries holds values that are not finite"),
        ({"candidates": np.zeros((20, 8), np.float32)}, "row 0 of the candidates is zero, and a neighbour of it means"),
        ({"positive": np.arange(19)}, "got 20 queries, 19 positive, 20 query_ids; give as many"),
        ({"queries": np.ones((1, 8), np.float32), "positive": np.zeros(1, int), "query_ids": np.zeros(1, int)},
         "one row cannot be mined: a cluster needs two"),
        ({"queries": np.ones((3, 8), np.float32), "positive": np.zeros(3, int), "query_ids": np.zeros(3, int)},
         "top_k=3 is larger than the data: 3 rows have at most 2 owners"),
    ],
)  # fmt: skip
def test_bad_subsets(miner, change, message):
    with pytest.raises(UserError, match=message):
        miner(top_k=3).mine(replace(make(0, 20, 20), **change))


@dataclass(frozen=True)
class Own:
    embeds: ClassVar[bool] = True
    neighbours: ClassVar[int] = 0
    top_k: int = 3

    def mine(self, subset, advance=no_progress):
        return [[0, 1]]


@dataclass(frozen=True)
class WithoutProgress(Own):
    def mine(self, subset):
        return [[0, 1]]


@dataclass(frozen=True)
class WithoutTopK:
    embeds: ClassVar[bool] = True
    neighbours: ClassVar[int] = 0

    def mine(self, subset, advance=no_progress):
        return [[0, 1]]


@pytest.mark.parametrize(
    ("miner", "message"),
    [
        (WithoutProgress(), "WithoutProgress.mine takes a subset and a function advance"),
        (WithoutTopK(), "WithoutTopK has no top_k"),
        (Own, "got type, which is none"),
    ],
)
def test_a_class_that_is_no_miner(miner, message):
    with pytest.raises(UserError, match=message):
        check_miner_class(miner)


def test_every_shipped_miner_is_one():
    for miner in (Own(), SaHa(), TopK(), B3()):
        assert check_miner_class(miner) is miner


@pytest.mark.parametrize("clusters", [[[0, 1, 1]], [[0, 9]], [[0, -1]], [[]], [[0.5, 1.0]], None, [0, 1]])
def test_what_are_no_clusters(clusters):
    with pytest.raises(UserError, match=r"Own\.mine returne?d?s? "):
        check_members(clusters, 9, Own())


def test_clusters_of_numpy():
    assert check_members([np.array([2, 0]), (1,)], 3, Own()) == [[2, 0], [1]]


@pytest.mark.parametrize(
    ("make_miner", "message"),
    [
        (lambda: SaHa(top_k=0), "mining.top_k and pool_multiplier are at least 1; got 0 and 3"),
        (lambda: TopK(skip_ranks=-1), "mining.skip_ranks is at least 0; got -1"),
        (lambda: SaHa(positive_share=0), "mining.positive_share is above 0; got 0"),
        (lambda: SaHa(positive_margin=-0.1), "mining.positive_margin is at least 0; got -0.1"),
        (lambda: B3(window=0), "mining.top_k and window are at least 1, .*; got 15, 0, 30 and 0.3"),
        (lambda: SaHa(top_k=3, min_teacher_score=0.5).mine(make(0, 20, 20)), "set data.teacher_column to the column"),
    ],
)
def test_bad_settings(make_miner, message):
    with pytest.raises(UserError, match=message):
        make_miner()
