"""The neighbours of a subset's queries, found in shards that survive a kill, by one process or several.

    store/<digest>/manifest.json         what decides them, spelled out
                   index.faiss           the approximate index, until the last shard is there
                   <start>-<stop>.npy    of these queries: int32 (stop - start, k), most similar first
                   recall.json           of an approximate search, on a sample of the queries

Every file is written to a temporary name and renamed, so whatever is there is whole.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from gen2embed.search.approximate import Approximate, build_index
from gen2embed.search.exact import Exact, Search, check_vectors
from gen2embed.types import Advance, no_progress
from gen2embed.utils.errors import UserError
from gen2embed.utils.files import write_atomic
from gen2embed.utils.fingerprints import Fingerprint, claim, digest, say_what_differs
from gen2embed.utils.log import progress
from gen2embed.utils.rank_group import ALONE, RankGroup

INDEX = "index.faiss"


@dataclass(frozen=True)
class Neighbours:
    """The candidates nearest to each query; how they were searched, with the recall of an approximate search."""

    indices: Int[np.ndarray, "n k"]
    searched: dict[str, Any]


def find_neighbours(
    search: Search,
    queries: Float[np.ndarray, "n d"],
    candidates: Float[np.ndarray, "m d"],
    count: int,
    decided_by: Fingerprint,
    peers: RankGroup = ALONE,
    advance: Advance = no_progress,
) -> Neighbours:
    """The `count` nearest candidates of each query, or all there are; every one of `peers` searches its part.

    decided_by: what decides the vectors, under which the results are kept. advance: is told of queries that are done.
    """
    if peers.count > 1 and not search.store:
        raise UserError("several ranks share neighbours through the store, and there is none; set search.store")
    count, folder = min(count, len(candidates)), None
    if search.store:
        decided_by = {**decided_by, "count": count, "search": search.describe()}
        folder = Path(search.store) / digest(decided_by)
        say_what_differs(folder, decided_by, "neighbours")
        claim(folder, decided_by, "neighbours")
    starts = range(0, len(queries), search.shard_size)
    shards = [(start, min(start + search.shard_size, len(queries))) for start in starts]
    own, found = peers.share(shards), dict[tuple[int, int], np.ndarray]()
    missing = [shard for shard in own if not (folder and _file(folder, shard).is_file())]
    advance(sum(stop - start for start, stop in own if (start, stop) not in missing))
    approximate = search.approximate_above is not None and len(candidates) > search.approximate_above
    at = folder / INDEX if folder and approximate else None
    if at and peers.rank == 0 and not all(_file(at.parent, shard).is_file() for shard in shards):
        build_index(candidates, at)  # also if only the others miss shards
    index: Exact | Approximate | None = None
    for shard in missing:
        if index is None:
            check_vectors(queries, "queries")
            index = Approximate(candidates, search, at, peers) if approximate else Exact(candidates, search)
        found[shard] = index(queries[slice(*shard)], count)
        if folder:
            write_atomic(_file(folder, shard), partial(np.save, arr=found.pop(shard).astype(np.int32)))
        advance(shard[1] - shard[0])
    indices = np.empty((len(queries), count), np.int64)
    if folder:
        peers.wait([_file(folder, shard) for shard in shards])
        advance(len(queries) - sum(stop - start for start, stop in own))
    for shard in shards:
        indices[slice(*shard)] = np.load(_file(folder, shard), allow_pickle=False) if folder else found[shard]
    if not approximate or peers.rank > 0:
        return Neighbours(indices, {"exact": not approximate})
    recall = _recall(search, queries, candidates, indices, folder)
    if folder:
        (folder / INDEX).unlink(missing_ok=True)
    return Neighbours(indices, {"exact": False, **recall})


def _file(folder: Path, shard: tuple[int, int]) -> Path:
    return folder / f"{shard[0]:09d}-{shard[1]:09d}.npy"


def _recall(
    search: Search, queries: np.ndarray, candidates: np.ndarray, indices: np.ndarray, folder: Path | None
) -> dict[str, Any]:
    """What share of the exact neighbours was found, on queries at equal distances; measured once."""
    kept = folder / "recall.json" if folder else None
    if kept and kept.is_file():
        return json.loads(kept.read_text())
    sample = np.unique(np.linspace(0, len(queries) - 1, min(search.sample, len(queries))).astype(int))
    with progress("measuring recall", len(sample)) as advance:
        exact = Exact(candidates, search)(queries[sample], indices.shape[1])
        advance(len(sample))
    shared = [len(np.intersect1d(a, b)) for a, b in zip(exact, indices[sample], strict=True)]
    measured = {f"recall@{indices.shape[1]}": round(float(np.sum(shared)) / exact.size, 6), "measured_on": len(sample)}
    if kept:
        write_atomic(kept, lambda file: file.write(json.dumps(measured).encode()))
    return measured
