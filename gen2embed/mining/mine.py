"""From training pairs to clusters, subset by subset."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from gen2embed.data.pairs import data_fingerprint, items_digest
from gen2embed.data.positives import Positives
from gen2embed.encoding.collapse import warn_if_collapsed
from gen2embed.encoding.engine import Encoded, Engine, Model
from gen2embed.mining.base import Miner, Subset
from gen2embed.mining.clusters import SCHEMA, write_clusters
from gen2embed.search.exact import Search
from gen2embed.search.neighbours import find_neighbours
from gen2embed.types import Item, Pair
from gen2embed.utils.errors import UserError
from gen2embed.utils.fingerprints import digest
from gen2embed.utils.log import log, progress
from gen2embed.utils.rank_group import ALONE, RankGroup, wait_for

SEARCH = Search()


@dataclass(frozen=True)
class Mined:
    """A table of `SCHEMA`, its manifest, and what was encoded for it."""

    table: pa.Table
    manifest: dict[str, Any]
    encoded: tuple[Encoded, ...]


def describe(model: Model, pairs: Sequence[Pair], miner: Miner, search: Search) -> dict[str, Any]:
    """What decides the clusters that `miner` makes of `pairs`: equal ones are the same clusters."""
    scores = [pair.teacher_score for pair in pairs]
    return {
        "kind": type(miner).__name__,
        "settings": asdict(miner),  # type: ignore[call-overload]
        **_digests(pairs),
        "rows": len(pairs),
        "subsets": list(dict.fromkeys(pair.subset for pair in pairs)),
        "embedding": model.fingerprint if miner.embeds else None,
        "teacher": digest({"scores": scores}) if any(score is not None for score in scores) else None,
        "search": search.describe() if miner.neighbours else None,
    }


def mine_pairs(
    model: Model,
    engine: Engine,
    pairs: Sequence[Pair],
    miner: Miner,
    classification: Collection[str],
    search: Search = SEARCH,
    peers: RankGroup = ALONE,
) -> Mined | None:
    """Mine clusters in every subset of `pairs`. classification: the subsets that are classification.

    Each of `peers` embeds and searches its part; rank 0 groups, and the others get None.
    Raises `UserError`, before anything is embedded, if a subset is too small for the miner.
    """
    places = _places(pairs, miner)
    if peers.rank == 0:
        for name, rows_of_it in Positives.of(pairs).alone(pairs).items():
            log.warning(
                "every pair of subset %s has the same positive (%d rows): its clusters hold no negative",
                name,
                len(rows_of_it),
            )
    encoded: tuple[Encoded, ...] = ()
    queries = positives = torch.empty(len(pairs), 0)
    if miner.embeds:
        encoded = (
            engine.encode(model, [pair.query for pair in pairs], "query", "queries", peers),
            engine.encode(model, [pair.positive for pair in pairs], "candidate", "candidates", peers),
        )
        queries, positives = (side.vectors for side in encoded)
        if peers.rank == 0:
            warn_if_collapsed(queries.numpy(), "query")
            warn_if_collapsed(positives.numpy(), "candidate")
    subsets: dict[str, Subset] = {}
    searched: dict[str, Any] = {}
    with progress("searching", len(pairs), shown=miner.neighbours > 0 and peers.rank == 0) as advance:
        for name, indices in places.items():
            its = [pairs[index] for index in indices]
            vectors = _take(queries, indices), _take(positives, indices)
            subsets[name] = make_subset(its, *vectors, name in classification)
            if miner.neighbours:
                arrays = subsets[name].queries, subsets[name].candidates
                decided_by = {"embedding": model.fingerprint, "subset": name, **_digests(its)}
                its_own = replace(search, store=search.store and Path(search.store) / quote(name, safe=""))
                found = find_neighbours(its_own, *arrays, miner.neighbours, decided_by, peers, advance)
                subsets[name], searched[name] = replace(subsets[name], nearest=found.indices), found.searched
    if peers.rank > 0:
        return None
    rows: list[dict[str, Any]] = []
    number = itertools.count()
    with progress("grouping", len(pairs)) as advance:
        for name, subset in subsets.items():
            its = [pairs[index] for index in places[name]]
            for members in miner.mine(subset, advance):
                rows += _rows(next(number), members, subset, [its[member] for member in members])
    manifest = {**describe(model, pairs, miner, search), "searched": searched}
    return Mined(pa.Table.from_pylist(rows, SCHEMA), manifest, encoded)


def _places(pairs: Sequence[Pair], miner: Miner) -> dict[str, list[int]]:
    """Where each subset's pairs are; raises `UserError` for a subset that is too small."""
    places: dict[str, list[int]] = {}
    for index, pair in enumerate(pairs):
        places.setdefault(pair.subset, []).append(index)
    for name, indices in places.items():
        if len(indices) == 1:
            raise UserError(f"subset {name} has one row, and a cluster needs two; add rows, or leave the subset out")
        if miner.top_k >= len(indices):
            raise UserError(
                f"mining.top_k={miner.top_k} is larger than the data: subset {name} has {len(indices)} rows"
            )
    return places


def mine_once(
    folder: Path,
    model: Model,
    pairs: Sequence[Pair],
    miner: Miner,
    engine: Engine,
    classification: Collection[str],
    search: Search = SEARCH,
) -> Path:
    """The clusters' file in `folder`, mined unless it is there already; its name is the digest of what decides it."""
    path = _kept(folder, model, pairs, miner, search)
    if not path.is_file():
        mined = mine_pairs(model, engine, pairs, miner, classification, search)
        assert mined is not None  # this process is alone
        write_clusters(path, mined.table, mined.manifest)
    return path


def await_mined(
    folder: Path, model: Model, pairs: Sequence[Pair], miner: Miner, seconds: float, search: Search = SEARCH
) -> Path:
    """The file that `mine_once` makes in another process; raises `UserError` if it is not there in time."""
    path = _kept(folder, model, pairs, miner, search)
    if wait_for([path], seconds):
        raise UserError(
            f"rank 0 did not mine {path} within {seconds:g} seconds; set data.clusters to what mine.py mined, or "
            "raise trainer.strategy.timeout_seconds"
        )
    return path


def _kept(folder: Path, model: Model, pairs: Sequence[Pair], miner: Miner, search: Search) -> Path:
    return folder / f"{digest(describe(model, pairs, miner, search))}.parquet"


def make_subset(pairs: Sequence[Pair], queries: np.ndarray, positives: np.ndarray, classification: bool) -> Subset:
    """The arrays of one subset's pairs; queries, positives: the vectors of either side, a row a pair."""
    positive, first = _identify([pair.positive for pair in pairs])
    query_ids, _ = _identify([pair.query for pair in pairs])
    scores = [pair.teacher_score for pair in pairs]
    teacher = None if None in scores else np.array(scores)
    candidates = _take(torch.from_numpy(positives), first)
    return Subset(queries, candidates, positive, query_ids, classification, teacher=teacher)


def _take(vectors: Tensor, rows: Sequence[int]) -> np.ndarray:
    """These rows; without a copy where they are all of a stretch, as a subset in one file is."""
    if rows and list(rows) == list(range(rows[0], rows[0] + len(rows))):
        return vectors[rows[0] : rows[0] + len(rows)].numpy()
    return vectors[rows].numpy()


def _digests(pairs: Sequence[Pair]) -> dict[str, str]:
    """What decides which vectors are searched, and in which order: the rows, and their files as they are now."""
    return {"data": data_fingerprint(pairs), "items": items_digest(pairs)}


def _identify(items: Sequence[Item]) -> tuple[np.ndarray, list[int]]:
    """A number for each item, equal for equal ones, and where each number occurs first."""
    numbers: dict[str, int] = {}
    first = []
    for index, item in enumerate(items):
        if item.key not in numbers:
            numbers[item.key] = len(numbers)
            first.append(index)
    return np.array([numbers[item.key] for item in items]), first


def _rows(number: int, members: Sequence[int], subset: Subset, pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """Rows of `SCHEMA`; similarities are null where nothing was embedded."""
    anchor, embedded = subset.queries[members[0]], subset.queries.shape[1] > 0
    return [
        {
            "cluster": number,
            "position": position,
            "subset": pair.subset,
            "row": pair.row,
            "similarity": float(anchor @ subset.candidates[subset.positive[member]]) if embedded else None,
            "owner_similarity": float(anchor @ subset.queries[member]) if embedded else None,
            "teacher_score": pair.teacher_score,
        }
        for position, (member, pair) in enumerate(zip(members, pairs, strict=True))
    ]
