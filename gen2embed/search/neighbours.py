"""The neighbours of a subset's queries, searched in shards that survive a kill, by one process or several.

    store/<digest>/manifest.json         what decides the results, spelled out
                   index.faiss           the approximate index, until the last shard is there
                   <start>-<stop>.npy    of these queries: int32 (stop - start, k), most similar first
                   recall.json           of an approximate search, on a sample of the queries

Every file is written to a temporary name and renamed, so a file that is there is complete.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from gen2embed.search.approximate import Approximate, build_index
from gen2embed.search.exact import Exact, Search, check_vectors
from gen2embed.types import Advance, no_progress
from gen2embed.utils.errors import UserError
from gen2embed.utils.files import write_atomic, write_json
from gen2embed.utils.fingerprints import Fingerprint, claim_store, fingerprint_digest, log_differences
from gen2embed.utils.log import progress
from gen2embed.utils.rank_group import ALONE, RankGroup

INDEX = "index.faiss"


Shard = tuple[int, int]  # the first query, and the one after the last


@dataclass(frozen=True)
class Neighbours:
    """The candidates nearest to each query.

    Args:
        indices: Most similar first.
        searched: How they were searched, with the recall of an approximate search.
    """

    indices: Int[np.ndarray, "n k"]
    searched: dict[str, Any]


def find_neighbours(
    search: Search,
    queries: Float[np.ndarray, "n d"],
    candidates: Float[np.ndarray, "m d"],
    count: int,
    decided_by: Fingerprint,
    ranks: RankGroup = ALONE,
    advance: Advance = no_progress,
) -> Neighbours:
    """Search the candidates nearest to each query.

        1. See which shards are there already, in the store.
        2. Search this rank's shards that are not.
        3. Wait for the shards of the other ranks, and read all.
        4. Measure the recall of an approximate search, on rank 0.

    Args:
        search: How neighbours are searched.
        queries: Unit vectors.
        candidates: Unit vectors.
        count: How many neighbours each query gets, or as many as there are.
        decided_by: What decides the vectors; the results are stored under it.
        ranks: The ranks that share the work.
        advance: Called with the number of queries that are done, as they are.

    Raises:
        UserError: Several ranks have no store, or a vector has no neighbours, since it is zero or not finite.
    """
    count = min(count, len(candidates))
    approximate = search.approximate_above is not None and len(candidates) > search.approximate_above
    results = _results(search, len(queries), count, decided_by, ranks)
    # 1. the shards that are missing
    own = ranks.share(results.shards)
    missing = [shard for shard in own if not results.has(shard)]
    advance(_size(own) - _size(missing))
    # 2. this rank's shards
    index_file = results.folder / INDEX if results.folder and approximate else None
    if index_file and ranks.rank == 0 and not all(map(results.has, results.shards)):
        build_index(candidates, index_file)  # even if only other ranks miss shards
    if missing:
        check_vectors(queries, "queries")
        index: Approximate | Exact = (
            Approximate(candidates, search, index_file, ranks) if approximate else Exact(candidates, search)
        )
        for shard in missing:
            results.write(shard, index(queries[slice(*shard)], count))
            advance(_size([shard]))
    # 3. all shards
    results.wait(ranks)
    advance(len(queries) - _size(own))
    indices = np.empty((len(queries), count), np.int64)
    for shard in results.shards:
        indices[slice(*shard)] = results.read(shard)
    # 4. the recall
    if not approximate or ranks.rank > 0:
        return Neighbours(indices, {"exact": not approximate})
    recall = _recall(search, queries, candidates, indices, results.folder)
    if index_file:
        index_file.unlink(missing_ok=True)
    return Neighbours(indices, {"exact": False, **recall})


@dataclass(frozen=True)
class _Results:
    """The neighbours of each shard: in files of `folder`, or in memory if that is None."""

    folder: Path | None
    shards: Sequence[Shard]
    memory: dict[Shard, np.ndarray] = field(default_factory=dict)

    def has(self, shard: Shard) -> bool:
        return shard in self.memory if self.folder is None else _file(self.folder, shard).is_file()

    def write(self, shard: Shard, indices: np.ndarray) -> None:
        if self.folder is None:
            self.memory[shard] = indices
        else:
            write_atomic(_file(self.folder, shard), partial(np.save, arr=indices.astype(np.int32)))

    def read(self, shard: Shard) -> np.ndarray:
        if self.folder is None:
            return self.memory[shard]
        return np.load(_file(self.folder, shard), allow_pickle=False)

    def wait(self, ranks: RankGroup) -> None:
        """Return when all shards are there; in memory, this process has searched them all."""
        if self.folder is not None:
            ranks.wait([_file(self.folder, shard) for shard in self.shards])


def _results(search: Search, queries: int, count: int, decided_by: Fingerprint, ranks: RankGroup) -> _Results:
    """Return the results in the folder that is claimed for them; raises `UserError` if ranks cannot share them."""
    if ranks.count > 1 and not search.store:
        raise UserError("several ranks share neighbours through the store, and there is none; set search.store")
    starts = range(0, queries, search.shard_size)
    shards = [(start, min(start + search.shard_size, queries)) for start in starts]
    if not search.store:
        return _Results(None, shards)
    decided_by = {**decided_by, "count": count, "search": search.describe()}
    folder = Path(search.store) / fingerprint_digest(decided_by)
    log_differences(folder, decided_by, "neighbours")
    claim_store(folder, decided_by, "neighbours")
    return _Results(folder, shards)


def _size(shards: Iterable[Shard]) -> int:
    """Return how many queries some shards have."""
    return sum(stop - start for start, stop in shards)


def _file(folder: Path, shard: Shard) -> Path:
    return folder / f"{shard[0]:09d}-{shard[1]:09d}.npy"


def _recall(
    search: Search, queries: np.ndarray, candidates: np.ndarray, indices: np.ndarray, folder: Path | None
) -> dict[str, Any]:
    """Return the share of the exact neighbours that were found, on evenly spaced queries; it is measured once."""
    file = folder / "recall.json" if folder else None
    if file and file.is_file():
        return json.loads(file.read_text())
    sample = np.unique(np.linspace(0, len(queries) - 1, min(search.sample, len(queries))).astype(int))
    with progress("measuring recall", len(sample)) as advance:
        exact = Exact(candidates, search)(queries[sample], indices.shape[1])
        advance(len(sample))
    shared = [len(np.intersect1d(a, b)) for a, b in zip(exact, indices[sample], strict=True)]
    recall = {f"recall@{indices.shape[1]}": round(float(np.sum(shared)) / exact.size, 6), "measured_on": len(sample)}
    if file:
        write_json(file, recall)
    return recall
