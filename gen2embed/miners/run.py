"""From training pairs to clusters, subset by subset."""

from __future__ import annotations

import itertools
import time
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from gen2embed.data.clusters import SCHEMA, data_fingerprint, write_clusters
from gen2embed.encoder.engine import Encoded, Engine, Model
from gen2embed.encoder.store import digest
from gen2embed.log import progress
from gen2embed.miners.base import Miner, Subset
from gen2embed.types import Item, Pair, UserError


@dataclass(frozen=True)
class Mined:
    """A table of `SCHEMA`, its manifest, and what was encoded for it."""

    table: pa.Table
    manifest: dict[str, Any]
    encoded: tuple[Encoded, ...]


def describe(model: Model, pairs: Sequence[Pair], miner: Miner) -> dict[str, Any]:
    """The manifest of the clusters that `miner` makes of `pairs`: equal ones are the same clusters."""
    scores = [pair.teacher_score for pair in pairs]
    return {
        "kind": type(miner).__name__,
        "settings": asdict(miner),  # type: ignore[call-overload]
        "data": data_fingerprint(pairs),
        "rows": len(pairs),
        "subsets": list(dict.fromkeys(pair.subset for pair in pairs)),
        "embedding": model.fingerprint if miner.embeds else None,
        "teacher": digest({"scores": scores}) if any(score is not None for score in scores) else None,
    }


def mine_pairs(
    model: Model, engine: Engine, pairs: Sequence[Pair], miner: Miner, classification: Collection[str]
) -> Mined:
    """Mine clusters in every subset of `pairs`. classification: the subsets that are classification.

    Raises `UserError`, before anything is embedded, if a subset is too small for the miner.
    """
    subsets: dict[str, list[int]] = {}
    for index, pair in enumerate(pairs):
        subsets.setdefault(pair.subset, []).append(index)
    for name, indices in subsets.items():
        if miner.top_k >= len(indices):
            raise UserError(
                f"mining.top_k={miner.top_k} is larger than the data: subset {name} has {len(indices)} rows"
            )
    encoded: tuple[Encoded, ...] = ()
    queries = positives = torch.empty(len(pairs), 0)
    if miner.embeds:
        encoded = (
            engine.encode(model, [pair.query for pair in pairs], "query", "queries"),
            engine.encode(model, [pair.positive for pair in pairs], "candidate", "candidates"),
        )
        queries, positives = (side.vectors for side in encoded)
    rows: list[dict[str, Any]] = []
    number = itertools.count()
    with progress("mining subsets", len(subsets)) as advance:
        for name, indices in subsets.items():
            its = [pairs[index] for index in indices]
            subset = make_subset(its, queries[indices], positives[indices], name in classification)
            for members in miner.mine(subset):
                rows += _rows(next(number), members, subset, [its[member] for member in members])
            advance()
    return Mined(pa.Table.from_pylist(rows, SCHEMA), describe(model, pairs, miner), encoded)


def mine_once(
    folder: Path, model: Model, pairs: Sequence[Pair], miner: Miner, engine: Engine, classification: Collection[str]
) -> Path:
    """The clusters' file in `folder`, mined unless it is there already; its name is its manifest's digest."""
    path = _kept(folder, model, pairs, miner)
    if not path.is_file():
        mined = mine_pairs(model, engine, pairs, miner, classification)
        write_clusters(path, mined.table, mined.manifest)
    return path


def await_mined(folder: Path, model: Model, pairs: Sequence[Pair], miner: Miner, seconds: float) -> Path:
    """The file that `mine_once` makes in another process; raises `UserError` if it is not there in time."""
    path = _kept(folder, model, pairs, miner)
    until = time.monotonic() + seconds
    while not path.is_file():
        if time.monotonic() > until:
            raise UserError(
                f"rank 0 did not mine {path} within {seconds:g} seconds; set data.clusters to what mine.py mined, or "
                "raise trainer.strategy.timeout_seconds"
            )
        time.sleep(1)
    return path


def _kept(folder: Path, model: Model, pairs: Sequence[Pair], miner: Miner) -> Path:
    return folder / f"{digest(describe(model, pairs, miner))}.parquet"


def make_subset(pairs: Sequence[Pair], queries: Tensor, positives: Tensor, classification: bool) -> Subset:
    """The arrays of one subset's pairs; queries, positives: the vectors of either side, a row a pair."""
    positive, first = _identify([pair.positive for pair in pairs])
    query_ids, _ = _identify([pair.query for pair in pairs])
    scores = [pair.teacher_score for pair in pairs]
    teacher = None if None in scores else np.array(scores)
    return Subset(queries.numpy(), positives.numpy()[first], positive, query_ids, classification, teacher)


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
