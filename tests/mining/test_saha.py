"""SaHa against the reference's clusters and against the paper's words in plain loops."""

import json
import math

import numpy as np
import pytest
from conftest import GOLDEN

from gen2embed import UserError
from gen2embed.mining.saha import mine_clusters
from gen2embed.search.exact import nearest


@pytest.mark.parametrize("name", ["retrieval", "classification", "vqa", "leftover", "big"])
def test_golden_clusters(name):
    arrays, golden = np.load(GOLDEN / f"saha_{name}.npz"), json.loads((GOLDEN / f"saha_{name}.json").read_text())
    clusters = mine_clusters(
        arrays["queries"],
        arrays["candidates"],
        arrays["positive"],
        top_k=golden["top_k"],
        pool_multiplier=golden["pool_mult"],
        classification=golden["kind"] == "classification",
    )
    assert len(clusters) > golden["phase1"]
    assert clusters == golden["groups"]


def dot(a, b):
    """Rounded once, so equal vectors tie whatever the order of summation."""
    return math.fsum(a.astype(float) * b.astype(float))


def naive(queries, candidates, positive, top_k, multiplier, classification, ids):
    """Both phases, from the words of the algorithm."""
    rows = range(len(queries))

    def walk(anchor, taken, limit):
        ranked = sorted(range(len(candidates)), key=lambda c: (-dot(queries[anchor], candidates[c]), c))
        own = {positive[row] for row in rows if ids[row] == ids[anchor]}
        owners = []
        for candidate in ranked[: 2 * top_k * multiplier]:
            if candidate in own:
                continue
            present = {ids[row] for row in owners}
            free = [row for row in rows if positive[row] == candidate and row not in taken and ids[row] not in present]
            if free:
                owners.append(max(free, key=lambda row: (dot(queries[row], queries[anchor]), -row)))
            if len(owners) == limit:
                break
        if not classification:
            owners.sort(key=lambda row: dot(queries[row], queries[anchor]))
        return owners[:top_k]

    clusters, used = [], set()
    for anchor in rows:
        owners = walk(anchor, used, top_k * multiplier) if anchor not in used else []
        if owners:
            clusters.append([anchor, *owners])
            used |= {anchor, *owners}
    reused = set()
    for anchor in [row for row in rows if row not in used]:
        owners = walk(anchor, reused, 2 * top_k * multiplier) if anchor not in reused else []
        if owners:
            clusters.append([anchor, *owners])
            reused |= {anchor, *owners}
    return clusters


def unit(rng, count, size=8):
    vectors = rng.normal(size=(count, size)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def ties_at_the_cut(queries, candidates, pool):
    """Of how many queries the last candidate in the pool and the first one out of it are equally similar."""
    ranked = [sorted(-dot(query, candidate) for candidate in candidates) for query in queries]
    return sum(pool < len(scores) and scores[pool - 1] == scores[pool] for scores in ranked)


@pytest.mark.parametrize("seed", range(40))
def test_against_loops(seed):
    """Both kinds of subset; positives that recur, equal queries, queries with several positives, equal candidates."""
    rng = np.random.default_rng(seed)
    classification, several, equal = seed % 2 > 0, seed % 4 > 1, seed % 8 > 3
    top_k, multiplier, rows = int(rng.integers(1, 6)), int(rng.integers(1, 4)), int(rng.integers(20, 60))
    pool = 2 * top_k * multiplier
    distinct = pool + int(rng.integers(1, 20)) if equal else int(rng.integers(5, 40))
    queries, candidates, positive = unit(rng, rows), unit(rng, distinct), rng.integers(distinct, size=rows)
    queries[rng.integers(rows, size=4)] = queries[rng.integers(rows, size=4)]
    if equal:
        candidates = candidates[rng.integers(1 + distinct // 3, size=distinct)]
    ids = rng.integers(rows // 2, size=rows) if several else np.arange(rows)
    arguments = (queries, candidates, positive, top_k, multiplier, classification, ids)
    clusters = mine_clusters(*arguments)
    assert clusters == naive(*arguments)
    assert max(map(len, clusters)) > 1
    assert (ties_at_the_cut(queries, candidates, pool) > 0) == equal


def test_rows_of_one_query_never_meet():
    rng = np.random.default_rng(0)
    ids = rng.integers(15, size=60)
    queries, candidates = unit(rng, 15)[ids], unit(rng, 60)
    met = []
    for query_ids in (None, ids):
        clusters = mine_clusters(queries, candidates, np.arange(60), 5, 2, query_ids=query_ids)
        met.append(sum(len(cluster) - len(set(ids[cluster])) for cluster in clusters))
    assert met[0] > 0
    assert met[1] == 0


def test_nearest_breaks_ties_by_index():
    candidates = np.array([[0, 1], [1, 0], [1, 0], [0, 1], [1, 0]], np.float32)
    assert nearest(np.array([[1, 0]], np.float32), candidates, 2).tolist() == [[1, 2]]
    assert nearest(np.array([[1, 0]], np.float32), candidates, 9).tolist() == [[1, 2, 4, 0, 3]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"top_k": 10}, "top_k=10 is larger than the data: 10 rows have at most 9 owners"),
        ({"top_k": 0}, "top_k and pool_multiplier are at least 1; got 0 and 2"),
        ({"positive": np.zeros(9, int)}, "got 10 queries, 9 positive; give as many"),
        ({"query_ids": [1]}, "got 10 queries, 10 positive, 1 query_ids; give"),
        ({"positive": np.full(10, 7)}, "positive holds indices outside of the 7 candidates"),
        ({"queries": np.full((10, 2), np.nan)}, "row 0 of the queries holds values that are not finite"),
        (
            {"queries": np.full((10, 2), np.nan), "neighbours": np.ones((10, 5), int)},
            "row 0 of the queries holds values",
        ),
        ({"candidates": np.eye(7, 2)}, "row 2 of the candidates is zero, and a neighbour of it"),
        ({"queries": np.ones((1, 2)), "positive": [0]}, "one row cannot be mined: a cluster needs two"),
    ],
)
def test_bad_input(change, message):
    rng = np.random.default_rng(0)
    arguments = {"queries": unit(rng, 10, 2), "candidates": unit(rng, 7, 2), "positive": np.zeros(10, int), "top_k": 3}
    with pytest.raises(UserError, match=message):
        mine_clusters(**{**arguments, "pool_multiplier": 2, **change})
