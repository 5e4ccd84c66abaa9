"""The batch plan: every row, whole clusters, nothing but (clusters, seed, epoch)."""

import itertools

import numpy as np
import pytest

from gen2embed import UserError
from gen2embed.data.batches import BatchPlan, Share, check_sizes, tempered


def clusters(rows=97, size=8, seed=0):
    """Clusters of 2 to `size` rows, and some rows in none."""
    rng = np.random.default_rng(seed)
    left, out = rng.permutation(rows).tolist(), []
    while len(left) > 10:
        take = size if len(out) % 2 else int(rng.integers(2, size + 1))
        out.append(left[:take])
        left = left[take:]
    return out


def flat(batches):
    return [[row for part in batch for row in part] for batch in batches]


@pytest.mark.parametrize("ranks", [1, 2])
def test_every_row_comes_in_every_epoch(ranks):
    plan = BatchPlan(clusters(), 97, 16, 0, ranks)
    for epoch in range(3):
        batches = plan.epoch(epoch)
        assert all([len(part) for part in batch] == [16 // ranks] * ranks for batch in batches)
        rows = flat(batches)
        assert {row for batch in rows for row in batch} == set(range(97))
        assert all(len(set(batch)) == 16 for batch in rows)
        assert sum(map(len, rows)) < 97 + 2 * 16  # few come again


@pytest.mark.parametrize("ranks", [1, 2])
def test_clusters_stay_whole_and_on_one_rank(ranks):
    """Each comes whole once an epoch, in one part of a batch; its rows may come again to complete another part."""
    members, plan = clusters(), BatchPlan(clusters(), 97, 16, 0, ranks)
    parts = [part for batch in plan.epoch(0) for part in batch]
    assert len({len(cluster) for cluster in members}) > 4
    for cluster in members:
        assert any(set(cluster) <= set(part) for part in parts)
    assert sum(len(cluster) > 1 and bool(set(cluster) & set(part)) and not set(cluster) <= set(part)
               for cluster in members for part in parts) < len(parts)  # fmt: skip


def test_equal_clusters_fill_every_batch():
    """They are never cut, and the batches of one rank are those of several."""
    members = np.arange(96).reshape(-1, 8).tolist()
    one, three = (BatchPlan(members, 96, 48, 0, ranks) for ranks in (1, 3))
    assert flat(one.epoch(4)) == flat(three.epoch(4))
    assert [len(batch) for batch in flat(one.epoch(0))] == [48, 48]
    for part in (part for batch in three.epoch(0) for part in batch):
        assert len(part) == 16
        assert all(set(cluster) <= set(part) or not set(cluster) & set(part) for cluster in members)


def test_batches_of_one_subset():
    """Clusters of either subset, 53 and 44 rows; those of a batch are of one, and the last of each is filled up."""
    members = [*clusters(53), *([53 + row for row in cluster] for cluster in clusters(44, seed=1))]
    subsets = ["a"] * 53 + ["b"] * 44
    mixed, apart = (BatchPlan(members, 97, 16, 0, 2, subsets, mixed) for mixed in (True, False))
    counts = [[len({subsets[row] for row in batch}) for batch in flat(plan.epoch(0))] for plan in (mixed, apart)]
    assert max(counts[0]) == 2
    assert set(counts[1]) == {1}
    batches = flat(apart.epoch(0))
    assert {row for batch in batches for row in batch} == set(range(97))
    assert all(len(set(batch)) == 16 for batch in batches)
    assert {subsets[batch[0]] for batch in batches[:4]} == {"a", "b"}  # shuffled, not one subset after the other
    assert batches == flat(apart.epoch(0)) != flat(apart.epoch(1))


def test_a_subset_smaller_than_a_batch_makes_a_smaller_one():
    """9 rows on two ranks: 4 each, and the ninth comes with some again; a cluster larger than a part is cut."""
    members = [list(range(32, 39))]
    plan = BatchPlan(members, 41, 16, 0, 2, ["a"] * 32 + ["b"] * 9, mixed=False)
    batches = plan.epoch(0)
    assert sorted([len(part) for part in batch] for batch in batches) == [[4, 4], [4, 4], [8, 8], [8, 8]]
    assert {row for batch in flat(batches) for row in batch} == set(range(41))


def test_it_is_a_function_of_seed_and_epoch():
    plan = BatchPlan(clusters(), 97, 16, 1)
    assert plan.epoch(2) == BatchPlan(clusters(), 97, 16, 1).epoch(2)
    assert plan.epoch(2) != plan.epoch(3)
    assert plan.epoch(2) != BatchPlan(clusters(), 97, 16, 2).epoch(2)


def test_it_goes_on_anywhere():
    plan = BatchPlan(clusters(), 97, 16, 1)
    endless = [*plan.epoch(0), *plan.epoch(1), *plan.epoch(2)]
    for first in (0, 1, len(plan.epoch(0)) - 1, len(plan.epoch(0)), len(plan.epoch(0)) + 2):
        assert list(itertools.islice(plan.after(first), 3)) == endless[first : first + 3]
        share = Share(BatchPlan(clusters(), 97, 16, 1, 2), 1, first)
        assert list(itertools.islice(share, 1)) == [BatchPlan(clusters(), 97, 16, 1, 2).epoch(0)[0][1]] or first


def test_without_clusters_rows_are_shuffled():
    (batch,), *_ = batches = BatchPlan([], 64, 16, 0).epoch(0)
    assert sorted(row for its in flat(batches) for row in its) == list(range(64))
    assert batch != list(range(16))


def test_shares_are_the_batch():
    plan = BatchPlan(clusters(), 97, 24, 0, 3)
    shares = [itertools.islice(Share(plan, rank), 50) for rank in range(3)]
    for batch, *parts in zip(itertools.islice(plan.after(0), 50), *shares, strict=True):
        assert parts == batch


# --- weights --------------------------------------------------------------------------------------------------------

SUBSETS = ["a"] * 60 + ["b"] * 20 + ["c"] * 17


@pytest.mark.parametrize("mixed", [True, False])
def test_weights_are_shares_of_the_rows(mixed):
    plan = BatchPlan([], 97, 8, 0, 1, SUBSETS, mixed, {"a": 1, "b": 3, "c": 0})
    rows = [row for epoch in range(6) for batch in flat(plan.epoch(epoch)) for row in batch]
    share = np.mean([SUBSETS[row] == "b" for row in rows])
    assert share == pytest.approx(0.75, abs=0.05)
    assert not any(SUBSETS[row] == "c" for row in rows)
    assert set(rows) == set(range(80))  # also those of which an epoch has no room for all


def test_no_row_comes_again_before_all_others_came():
    """24 of 60 rows of subset a an epoch: five epochs are two passes."""
    plan = BatchPlan([], 97, 8, 0, 1, SUBSETS, True, {"a": 24 / 97, "b": 60 / 97, "c": 13 / 97})
    turns = [row[0] for epoch in range(5) for row in plan._turn("a", epoch)]
    assert sorted(turns) == sorted([*range(60), *range(60)])
    assert sorted(turns[:60]) == list(range(60))
    assert turns[:60] != turns[60:]


def test_a_temperature_evens_the_subsets_out():
    assert tempered(SUBSETS, 1) == pytest.approx({"a": 60, "b": 20, "c": 17})
    two = tempered(SUBSETS, 2)
    assert two == pytest.approx({"a": 60**0.5, "b": 20**0.5, "c": 17**0.5})
    high = tempered(SUBSETS, 1e6)
    assert max(high.values()) / min(high.values()) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"a": 1, "b": 1, "d": 1}, "batch.weights has no subset d; choose from a, b, c"),
        ({"a": 1, "b": 1}, "batch.weights says nothing of c; give every subset a weight, 0 for none"),
        ({"a": 1, "b": -1, "c": 0}, "batch.weights are at least 0, and one is above; got"),
        ({"a": 0, "b": 0, "c": 0}, "batch.weights are at least 0, and one is above; got"),
        ({"a": 0, "b": 0, "c": 1}, "batch.pairs=24 is more than the subsets with a weight have rows; lower it"),
    ],
)
def test_bad_weights(weights, message):
    with pytest.raises(UserError, match=message):
        BatchPlan([], 97, 24, 0, 1, SUBSETS, True, weights)


def test_clusters_larger_than_a_part():
    with pytest.raises(UserError, match=r"batch.pairs=8 makes 4 pairs a rank, and there are clusters of 7; raise it"):
        BatchPlan([list(range(7))], 41, 8, 0, 2)


def test_a_subset_too_small_for_a_batch():
    with pytest.raises(
        UserError, match="the subset b has too few rows for a batch of its own on 4 ranks: 3; set batch"
    ):
        BatchPlan([], 35, 16, 0, 4, ["a"] * 32 + ["b"] * 3, mixed=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((100, 20, 8), "batch.pairs=20 cannot be split into whole clusters of 8 pairs; set it to 16 or 24"),
        ((100, 4, 8), "batch.pairs=4 cannot be split into whole clusters of 8 pairs; set it to 8"),
        ((100, 20, 1, 3), "batch.pairs=20 cannot be split on 3 ranks; set it to 18 or 21"),
        (
            (100, 40, 8, 3),
            "batch.pairs=40 cannot be split into whole clusters of 8 pairs on 3 ranks; set it to 24 or 48",
        ),
        ((100, 1), "batch.pairs=1 must be between 2 and the number of training rows, 100"),
        ((100, 200, 8), "batch.pairs=200 must be between 2 and the number of training rows, 100"),
        ((100, 16, 1, 1, 0), "batch.chunk is at least 1, or null; got 0"),
        ((100, 16, 1, 1, 2, -1), "batch.chunk_tokens is at least 1, or null; got -1"),
    ],
)
def test_bad_sizes(arguments, message):
    with pytest.raises(UserError, match=message):
        check_sizes(*arguments)
