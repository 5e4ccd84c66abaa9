"""The batch plan: every row, whole clusters, nothing but (clusters, seed, epoch)."""

import itertools

import numpy as np
import pytest

from gen2embed import UserError
from gen2embed.data.batches import BatchPlan, Share, check_sizes


def clusters(rows=97, size=8, seed=0):
    """Clusters of 2 to `size` rows, and some rows in none."""
    rng = np.random.default_rng(seed)
    left, out = rng.permutation(rows).tolist(), []
    while len(left) > 10:
        take = size if len(out) % 2 else int(rng.integers(2, size + 1))
        out.append(left[:take])
        left = left[take:]
    return out


def test_every_row_comes_in_every_epoch():
    plan = BatchPlan(clusters(), 97, 16, seed=0)
    for epoch in range(3):
        batches = plan.epoch(epoch)
        assert {row for batch in batches for row in batch} == set(range(97))
        assert all(len(batch) == len(set(batch)) <= 16 for batch in batches)
        assert np.mean([len(batch) for batch in batches]) > 14.5


def test_clusters_stay_whole():
    members = clusters()
    for batch in BatchPlan(members, 97, 16, seed=0).epoch(0):
        for cluster in members:
            assert set(cluster) <= set(batch) or not set(cluster) & set(batch)


def test_equal_clusters_fill_every_batch():
    members = np.arange(96).reshape(-1, 8).tolist()
    batches = BatchPlan(members, 96, 40, seed=0).epoch(0)  # 12 clusters, 5 a batch: the last is completed
    assert [len(batch) for batch in batches] == [40, 40, 40]


def test_batches_of_one_subset():
    """Clusters of either subset, 53 and 44 rows; those of a batch are of one, and the last of each is filled up."""
    members = [*clusters(53), *([53 + row for row in cluster] for cluster in clusters(44, seed=1))]
    subsets = ["a"] * 53 + ["b"] * 44
    mixed, apart = (BatchPlan(members, 97, 16, 0, given) for given in (None, subsets))
    counts = [[len({subsets[row] for row in batch}) for batch in plan.epoch(0)] for plan in (mixed, apart)]
    assert max(counts[0]) == 2
    assert set(counts[1]) == {1}
    batches = apart.epoch(0)
    assert {row for batch in batches for row in batch} == set(range(97))
    assert all(len(batch) == len(set(batch)) <= 16 for batch in batches)
    assert np.mean([len(batch) for batch in batches]) > 14
    assert {subsets[batch[0]] for batch in batches[:4]} == {"a", "b"}  # shuffled, not one subset after the other
    assert batches == apart.epoch(0) != apart.epoch(1)


def test_a_subset_smaller_than_a_batch_makes_a_smaller_one():
    sizes = [len(batch) for batch in BatchPlan([], 40, 16, 0, ["a"] * 32 + ["b"] * 8).epoch(0)]
    assert sorted(sizes) == [8, 16, 16]


def test_it_is_a_function_of_seed_and_epoch():
    plan = BatchPlan(clusters(), 97, 16, seed=1)
    assert plan.epoch(2) == BatchPlan(clusters(), 97, 16, seed=1).epoch(2)
    assert plan.epoch(2) != plan.epoch(3)
    assert plan.epoch(2) != BatchPlan(clusters(), 97, 16, seed=2).epoch(2)
    endless = list(itertools.islice(plan, 20))
    assert endless == [*plan.epoch(0), *plan.epoch(1), *plan.epoch(2)][:20]


def test_without_clusters_rows_are_shuffled():
    batches = BatchPlan([], 64, 16, seed=0).epoch(0)
    assert sorted(row for batch in batches for row in batch) == list(range(64))
    assert batches[0] != list(range(16))


@pytest.mark.parametrize("ranks", [1, 2, 3, 7])
def test_shares_are_the_batch(ranks):
    plan = BatchPlan(clusters(), 97, 16, seed=0)
    shares = [itertools.islice(Share(plan, rank, ranks), 50) for rank in range(ranks)]
    uneven = 0
    for batch, *parts in zip(itertools.islice(plan, 50), *shares, strict=True):
        assert [row for part in parts for row in part] == batch
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
        uneven += len(batch) % ranks > 0
    assert uneven or ranks == 1


def test_equal_clusters_stay_on_one_rank():
    members = np.arange(96).reshape(-1, 8).tolist()
    part = next(iter(Share(BatchPlan(members, 96, 48, seed=0), 1, 3)))
    assert len(part) == 16
    assert all(set(cluster) <= set(part) or not set(cluster) & set(part) for cluster in members)


def test_more_ranks_than_pairs():
    plan = BatchPlan([], 4, 2, seed=0)
    with pytest.raises(UserError, match="a batch came out with 2 pairs for 3 ranks"):
        next(iter(Share(plan, 0, 3)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((100, 20, 8), "batch.pairs=20 is not divisible into clusters of 8 pairs; set it to 16 or 24"),
        ((100, 4, 8), "batch.pairs=4 is not divisible into clusters of 8 pairs; set it to 8"),
        ((100, 20, 1, 3), "batch.pairs=20 is not divisible among 3 ranks; set it to 18 or 21"),
        ((100, 40, 8, 3), "batch.pairs=40 is not divisible among 3 ranks; set it to 24 or 48"),
        ((100, 1), "batch.pairs=1 must be between 2 and the number of training rows, 100"),
        ((100, 200, 8), "batch.pairs=200 must be between 2 and the number of training rows, 100"),
        ((100, 16, 1, 1, 0), "batch.query_chunk, which batch.chunk sets too, is at least 1; got 0"),
        ((100, 16, 1, 1, 2, -1), "batch.candidate_chunk, which batch.chunk sets too, is at least 1; got -1"),
    ],
)
def test_bad_sizes(arguments, message):
    with pytest.raises(UserError, match=message):
        check_sizes(*arguments)
