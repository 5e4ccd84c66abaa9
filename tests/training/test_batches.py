"""The batch plan: every row, whole clusters, nothing but (clusters, seed, epoch)."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from gen2embed import UserError
from gen2embed.data.positives import Positives
from gen2embed.training.batches import ClusterBatchSampler, RankBatchSampler, check_sizes
from gen2embed.training.datamodule import warn_about_positives
from gen2embed.training.recipe import BatchSettings
from gen2embed.training.weights import tempered
from gen2embed.types import Item, Pair


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
    plan = ClusterBatchSampler(clusters(), 97, 16, 0, ranks)
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
    members, plan = clusters(), ClusterBatchSampler(clusters(), 97, 16, 0, ranks)
    parts = [part for batch in plan.epoch(0) for part in batch]
    assert len({len(cluster) for cluster in members}) > 4
    for cluster in members:
        assert any(set(cluster) <= set(part) for part in parts)
    assert sum(len(cluster) > 1 and bool(set(cluster) & set(part)) and not set(cluster) <= set(part)
               for cluster in members for part in parts) < len(parts)  # fmt: skip


def test_equal_clusters_fill_every_batch():
    """They are never cut, and the batches of one rank are those of several."""
    members = np.arange(96).reshape(-1, 8).tolist()
    one, three = (ClusterBatchSampler(members, 96, 48, 0, ranks) for ranks in (1, 3))
    assert flat(one.epoch(4)) == flat(three.epoch(4))
    assert [len(batch) for batch in flat(one.epoch(0))] == [48, 48]
    for part in (part for batch in three.epoch(0) for part in batch):
        assert len(part) == 16
        assert all(set(cluster) <= set(part) or not set(cluster) & set(part) for cluster in members)


def test_batches_of_one_subset():
    """Clusters of either subset, 53 and 44 rows; those of a batch are of one, and the last of each is filled up."""
    members = [*clusters(53), *([53 + row for row in cluster] for cluster in clusters(44, seed=1))]
    subsets = ["a"] * 53 + ["b"] * 44
    mixed, apart = (ClusterBatchSampler(members, 97, 16, 0, 2, subsets, mixed) for mixed in (True, False))
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
    plan = ClusterBatchSampler(members, 41, 16, 0, 2, ["a"] * 32 + ["b"] * 9, mixed=False)
    batches = plan.epoch(0)
    assert sorted([len(part) for part in batch] for batch in batches) == [[4, 4], [4, 4], [8, 8], [8, 8]]
    assert {row for batch in flat(batches) for row in batch} == set(range(41))


def test_it_is_a_function_of_seed_and_epoch():
    plan = ClusterBatchSampler(clusters(), 97, 16, 1)
    assert plan.epoch(2) == ClusterBatchSampler(clusters(), 97, 16, 1).epoch(2)
    assert plan.epoch(2) != plan.epoch(3)
    assert plan.epoch(2) != ClusterBatchSampler(clusters(), 97, 16, 2).epoch(2)


def test_it_goes_on_anywhere():
    plan = ClusterBatchSampler(clusters(), 97, 16, 1)
    endless = [*plan.epoch(0), *plan.epoch(1), *plan.epoch(2)]
    for first in (0, 1, len(plan.epoch(0)) - 1, len(plan.epoch(0)), len(plan.epoch(0)) + 2):
        assert list(itertools.islice(plan.after(first), 3)) == endless[first : first + 3]
        share = RankBatchSampler(ClusterBatchSampler(clusters(), 97, 16, 1, 2), 1, first)
        assert (
            list(itertools.islice(share, 1)) == [ClusterBatchSampler(clusters(), 97, 16, 1, 2).epoch(0)[0][1]] or first
        )


def test_without_clusters_rows_are_shuffled():
    (batch,), *_ = batches = ClusterBatchSampler([], 64, 16, 0).epoch(0)
    assert sorted(row for its in flat(batches) for row in its) == list(range(64))
    assert batch != list(range(16))


def test_shares_are_the_batch():
    plan = ClusterBatchSampler(clusters(), 97, 24, 0, 3)
    shares = [itertools.islice(RankBatchSampler(plan, rank), 50) for rank in range(3)]
    for batch, *parts in zip(itertools.islice(plan.after(0), 50), *shares, strict=True):
        assert parts == batch


@pytest.mark.parametrize("mixed", [True, False])
def test_other_ranks_divide_the_same_batches(mixed):
    """What a run planned for 2 ranks has on 4, or on 1."""
    plan = ClusterBatchSampler(clusters(), 97, 16, 0, 2, ["a"] * 97, mixed)
    for ranks in (1, 4):
        shares = [itertools.islice(RankBatchSampler(plan, rank, 3, ranks), 20) for rank in range(ranks)]
        for batch, *parts in zip(itertools.islice(plan.after(3), 20), *shares, strict=True):
            assert [len(part) for part in parts] == [16 // ranks] * ranks
            assert [row for part in parts for row in part] == [row for part in batch for row in part]
    with pytest.raises(UserError, match=r"planned for 2 ranks, and 3 cannot share 16 pairs .* set trainer.devices"):
        RankBatchSampler(plan, 0, 0, 3)


# --- equal positives ------------------------------------------------------------------------------------------------


def positives(numbers, contrasted=()):
    return Positives(np.array(numbers), np.isin(np.arange(len(numbers)), list(contrasted)))


def distinct(plan, numbers, epoch=0):
    """How many positives each batch has."""
    return [len({numbers[row] for row in batch}) for batch in flat(plan.epoch(epoch))]


@pytest.mark.parametrize(("members", "mixed"), [([], True), ([], False), (np.arange(64).reshape(-1, 4).tolist(), True)])
def test_no_batch_has_one_positive_alone(members, mixed):
    """8 of 64 rows have another positive; by chance some of the 8 batches of an epoch have none of them."""
    numbers = [int(row in (3, 21, 40, 41, 50, 51, 60, 61)) for row in range(64)]
    arguments = (members, 64, 8, 0, 2, ["a"] * 64, mixed)
    plain, mended = ClusterBatchSampler(*arguments), ClusterBatchSampler(*arguments, positives=positives(numbers))
    lone = [distinct(plain, numbers, epoch).count(1) for epoch in range(6)]
    given = [distinct(mended, numbers, epoch).count(1) for epoch in range(6)]
    assert sum(lone) > 6
    most = 8 if members == [] else 5  # batches that can have one; five clusters have several positives
    assert given == [8 - most] * 6
    for epoch in range(6):
        rows = [[sorted(batch) for batch in flat(plan.epoch(epoch))] for plan in (plain, mended)]
        assert sorted(row for batch in rows[0] for row in batch) == sorted(row for batch in rows[1] for row in batch)
        for parts in mended.epoch(epoch):
            assert [len(part) for part in parts] == [4, 4]
            assert all(set(its) <= set(part) or not set(its) & set(part) for its in members for part in parts)


def test_two_positives_that_fill_batches_are_exchanged():
    numbers = [0] * 16 + [1] * 16
    parts = [[[[row] for row in range(start, start + 8)]] for start in range(0, 32, 8)]
    positives(numbers).mend(parts)
    counts = [len({numbers[row] for (row,) in part}) for (part,) in parts]
    assert counts == [2, 2, 2, 2]


def test_a_plan_that_needs_no_mending_is_as_it_was():
    numbers = np.random.default_rng(0).integers(20, size=97).tolist()
    plan, aware = (
        ClusterBatchSampler(clusters(), 97, 16, 0, 2),
        ClusterBatchSampler(clusters(), 97, 16, 0, 2, positives=positives(numbers)),
    )
    assert 1 not in distinct(plan, numbers)
    assert plan.epoch(0) == aware.epoch(0)


def test_what_cannot_be_mended_stays():
    """All rows have one positive; a row's own negative is a contrast, too."""
    plan = ClusterBatchSampler([], 32, 8, 0, positives=positives([0] * 32))
    assert plan.epoch(0) == ClusterBatchSampler([], 32, 8, 0).epoch(0)
    own = ClusterBatchSampler([], 32, 8, 0, positives=positives([0] * 32, contrasted=[1, 2]))
    assert sum(own.positives.only_candidate(batch) is None for batch in flat(own.epoch(0))) == 2


@pytest.mark.parametrize("ranks", [1, 2])
def test_distinct_positives(ranks):
    """12 rows each of 16 positives fill batches of 16 without a repetition, or nearly; by chance they repeat many."""
    numbers = [row % 16 for row in range(192)]
    arguments = ([], 192, 16, 0, ranks)
    chance = distinct(ClusterBatchSampler(*arguments, positives=positives(numbers)), numbers)
    plan = ClusterBatchSampler(*arguments, positives=positives(numbers), distinct=True)
    assert np.mean(chance) < 11.5
    assert np.mean(distinct(plan, numbers)) > 15.5
    for epoch in range(2):
        assert sorted(row for batch in flat(plan.epoch(epoch)) for row in batch) == list(range(192))
    assert plan.epoch(0) == plan.epoch(0) != plan.epoch(1)
    endless = [*plan.epoch(0), *plan.epoch(1)]
    assert list(itertools.islice(plan.after(5), 10)) == endless[5:15]


def test_distinct_positives_of_rare_ones():
    """6 of 60 rows come evenly; what is left can only repeat, and every row comes once."""
    numbers = [int(row < 6) for row in range(60)]
    plan = ClusterBatchSampler([], 60, 10, 0, positives=positives(numbers), distinct=True)
    batches = flat(plan.epoch(0))
    assert [sum(numbers[row] for row in batch) for batch in batches] == [1] * 6
    assert sorted(row for batch in batches for row in batch) == list(range(60))


def test_which_positives_are_equal(tmp_path):
    """By their content; a picture by its path, which need not be there."""
    texts = [Pair(Item.create("q"), Item.create(text), "a", row) for row, text in enumerate(["spam", "ham", "spam"])]
    pictures = [Pair(Item.create("q"), Item.create("", tmp_path / name), "a", row) for row, name in enumerate("xyx")]
    own = [replace(texts[0], negatives=(Item.create(text),)) for text in ("spam", "eggs")]
    found = Positives.from_pairs([*texts, *pictures, *own])
    assert found.numbers.tolist() == [0, 1, 0, 2, 3, 2, 0, 0]
    assert found.contrasted.tolist() == [False] * 7 + [True]


@pytest.mark.parametrize(
    ("mixed", "subsets", "warnings"),
    [
        (True, "aaaa", ["subset a has the same positive (32 rows", "4 of 4 batches"]),
        (False, "aabb", ["subset a has the same positive (16 rows", "2 of 4 batches"]),
        (True, "aabb", ["subset a has the same positive (16 rows"]),
        (True, "bbbb", []),
    ],
)
def test_what_is_warned_of(caplog, mixed, subsets, warnings):
    pairs = [
        Pair(Item.create(str(row)), Item.create("spam" if name == "a" else str(row)), name, row)
        for row, name in enumerate(name for name in subsets for _ in range(8))
    ]
    names = [pair.subset for pair in pairs]
    warn_about_positives(
        ClusterBatchSampler([], 32, 8, 0, 1, names, mixed, positives=Positives.from_pairs(pairs)), pairs
    )
    assert len(caplog.messages) == len(warnings)
    assert all(text in message for text, message in zip(warnings, caplog.messages, strict=True))


# --- weights --------------------------------------------------------------------------------------------------------

SUBSETS = ["a"] * 60 + ["b"] * 20 + ["c"] * 17


@pytest.mark.parametrize("mixed", [True, False])
def test_weights_are_shares_of_the_rows(mixed):
    plan = ClusterBatchSampler([], 97, 8, 0, 1, SUBSETS, mixed, {"a": 1, "b": 3, "c": 0})
    rows = [row for epoch in range(6) for batch in flat(plan.epoch(epoch)) for row in batch]
    share = np.mean([SUBSETS[row] == "b" for row in rows])
    assert share == pytest.approx(0.75, abs=0.05)
    assert not any(SUBSETS[row] == "c" for row in rows)
    assert set(rows) == set(range(80))  # also those of which an epoch has no room for all


def test_no_row_comes_again_before_all_others_came():
    """24 of 60 rows of subset a an epoch: five epochs are two passes."""
    plan = ClusterBatchSampler([], 97, 8, 0, 1, SUBSETS, True, {"a": 24 / 97, "b": 60 / 97, "c": 13 / 97})
    turns = [row[0] for epoch in range(5) for row in plan._clusters_of_epoch("a", epoch)]
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
        ClusterBatchSampler([], 97, 24, 0, 1, SUBSETS, True, weights)


def test_clusters_larger_than_a_part():
    with pytest.raises(UserError, match=r"batch.pairs=8 makes 4 pairs a rank, and there are clusters of 7; raise it"):
        ClusterBatchSampler([list(range(7))], 41, 8, 0, 2)


def test_a_subset_too_small_for_a_batch():
    with pytest.raises(
        UserError, match="the subset b has too few rows for a batch of its own on 4 ranks: 3; set batch"
    ):
        ClusterBatchSampler([], 35, 16, 0, 4, ["a"] * 32 + ["b"] * 3, mixed=False)


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
    ],
)
def test_bad_sizes(arguments, message):
    with pytest.raises(UserError, match=message):
        check_sizes(*arguments)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"chunk": 0}, "batch.chunk is at least 1, or null; got 0"),
        ({"chunk_tokens": -1}, "batch.chunk_tokens is at least 1, or null; got -1"),
        ({"workers": -1}, "batch.workers is at least 0; got -1"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(UserError, match=message):
        BatchSettings(pairs=16, **settings)
