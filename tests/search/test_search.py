"""The search against a full sort in exact arithmetic, whatever the blocks, the ties and the storage."""

from dataclasses import replace

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis.extra.numpy import arrays
from vectors import unit

from gen2embed import UserError
from gen2embed.search.exact import SPARE, Exact, Search, nearest
from gen2embed.search.products import PARTS, error_bounds, exact_scores, short_sums

BLOCKS = [Search(block=7), Search(block=4096), Search(), Search(memory_gib=1e-4)]


def full_sort(queries, candidates, count):
    """Scores in the fixed order, but one by one, and a sort of all."""
    indices = []
    for query in queries:
        scores = [float(exact_scores(query, candidate[None])[0]) for candidate in candidates]
        indices.append(sorted(range(len(candidates)), key=lambda index: (-scores[index], index))[:count])
    return indices


def test_scores_are_sums_of_exact_products():
    query, rows = unit(0, 1, 1536)[0], unit(1, 50, 1536)
    from math import fsum

    exact = [fsum((query.astype(float) * row.astype(float)).tolist()) for row in rows]
    np.testing.assert_allclose(exact_scores(query, rows), exact, rtol=0, atol=1e-15)
    half = rows.astype(np.float16)  # whose products all fit 53 bits below 1, so that no sum is rounded
    assert exact_scores(query.astype(np.float16), half).tolist() == [
        fsum((query.astype(np.float16).astype(float) * row.astype(float)).tolist()) for row in half
    ]


@pytest.mark.parametrize("width", [1, 15, 16, 17, 1536])
def test_short_sums_are_as_good_as_said(width):
    """And the bound is no idle one: it is a hundredth of that of one long sum."""
    query, rows = unit(0, 1, width)[0], unit(1, 200, width)
    off = np.abs(short_sums(query, rows) - exact_scores(query, rows)).max()
    tight, loose = (error_bounds(query[None], 1.0, terms, torch.float32)[0] for terms in (PARTS, width))
    assert off <= tight
    assert width < 1000 or (0.005 * tight < off and tight < 0.02 * loose)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("search", BLOCKS)
def test_against_a_full_sort(search, dtype):
    queries, candidates = unit(0, 20, dtype=dtype), unit(1, 300, dtype=dtype)
    candidates[100:200] = candidates[:100]
    indices = Exact(candidates, search)(queries, 30)
    assert indices.tolist() == full_sort(queries, candidates, 30)
    assert indices.dtype == np.int64


values = st.sampled_from([-1.0, 0.0, 0.5, 1.0, 1.0 + 2**-20])  # small enough for many ties and near-ties


@given(st.data(), st.integers(1, 130), st.integers(1, 4), st.integers(1, 130), st.sampled_from([7, 4096]))
def test_ties(data, many, width, count, block):
    candidates = data.draw(arrays(np.float32, (many, width), elements=values))
    queries = data.draw(arrays(np.float32, (3, width), elements=values))
    candidates[~candidates.any(axis=1)] = queries[~queries.any(axis=1)] = 1
    assert Exact(candidates, Search(block=block))(queries, count).tolist() == full_sort(queries, candidates, count)


@pytest.mark.parametrize("search", BLOCKS)
def test_near_ties_beyond_what_is_spared(search):
    """More candidates than are kept lie within float32's error of the cut, and only float64 can order them."""
    many, size = 3 * SPARE, 64
    rng = np.random.default_rng(3)
    candidates = np.tile(unit(0, 1, size), (many, 1))
    candidates += (rng.integers(-3, 4, size=candidates.shape) * np.spacing(candidates)).astype(np.float32)
    queries = unit(0, 1, size) + 0.05 * unit(4, 5, size)
    scores = np.array([exact_scores(query, candidates) for query in queries])
    assert np.ptp(scores) < 1e-1 and (np.ptp(scores, axis=1) < 1e-6).all()
    assert len({tuple(row) for row in scores.argsort(axis=1).tolist()}) > 1
    assert Exact(candidates, search)(queries, 50).tolist() == full_sort(queries, candidates, 50)


def test_threads_and_order_of_queries_change_nothing():
    queries, candidates = unit(0, 100), np.repeat(unit(1, 90), 3, axis=0)
    expected = nearest(queries, candidates, 40)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert (nearest(queries, candidates, 40) == expected).all()
        assert (nearest(queries[::-1], candidates, 40) == expected[::-1]).all()
        torch.set_float32_matmul_precision("medium")
        assert (nearest(queries, candidates, 40) == expected).all()
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_num_threads(before)
        torch.set_float32_matmul_precision("highest")


def test_memory_mapped(tmp_path):
    queries, candidates = unit(0, 50, dtype=np.float16), unit(1, 500, dtype=np.float16)
    for name, vectors in (("q", queries), ("c", candidates)):
        np.save(tmp_path / f"{name}.npy", vectors)
    mapped = [np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in "qc"]
    assert (Exact(mapped[1], Search(block=64))(mapped[0], 20) == nearest(queries, candidates, 20)).all()


def test_blocks_fit_the_memory():
    for memory in (0.01, 1, 16):
        search = Search(memory_gib=memory)
        queries, candidates = search.blocks(1536, 90)
        taken = queries * candidates * 8 + queries * 1536 * 8 + queries * (90 + SPARE) * 24 + candidates * 1536 * 16
        assert 0.25 * memory < taken / 2**30 <= memory or queries == search.shard_size
    assert Search(memory_gib=2).blocks(1536, 90) < Search(memory_gib=4).blocks(1536, 90)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_finds_the_same():
    queries, candidates = unit(0, 500, 256), unit(1, 5000, 256)
    candidates[1000:2000] = candidates[:1000]
    on = [Exact(candidates, Search(device=device))(queries, 90) for device in ("cpu", "cuda")]
    assert (on[0] == on[1]).all()


def test_fewer_candidates_than_wanted():
    assert nearest(unit(0, 3), unit(1, 2), 9).shape == (3, 2)
    assert nearest(unit(0, 0), unit(1, 2), 9).shape == (0, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"device": "gpu"}, "search.device=gpu is no device"),
        ({"memory_gib": 0}, "search.memory_gib is above 0; got 0"),
        ({"block": 0}, "search.block is at least 1; got 0"),
        ({"shard_size": 0}, "search.shard_size is at least 1; got 0"),
        ({"approximate_above": -1}, "search.approximate_above is at least 0, or null for never; got -1"),
    ],
)
def test_bad_settings(change, message):
    with pytest.raises(UserError, match=message):
        replace(Search(), **change)


def test_what_cannot_be_searched():
    good, bad = unit(0, 5), unit(0, 5)
    bad[3, 2] = np.nan
    with pytest.raises(UserError, match="row 3 of the queries holds values that are not finite"):
        nearest(bad, good, 2)
    bad[3] = 0
    with pytest.raises(UserError, match="row 3 of the candidates is zero, and a neighbour of it means nothing"):
        nearest(good, bad, 2)
    with pytest.raises(UserError, match="queries of 9 elements cannot be compared with candidates of 24"):
        nearest(unit(0, 2, 9), good, 2)
    with pytest.raises(UserError, match="memory_gib=1e-06 does not hold one vector of 24 elements"):
        Exact(good, Search(memory_gib=1e-6))(good, 2)
