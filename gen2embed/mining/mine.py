"""From training pairs to clusters, subset by subset."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa

from gen2embed.data.numbering import rows_by_subset
from gen2embed.data.pairs import data_fingerprint, items_digest
from gen2embed.data.positives import Positives
from gen2embed.encoding.collapse import warn_if_collapsed
from gen2embed.encoding.engine import Encoded, Engine, Model
from gen2embed.mining.base import Miner, Subset, check_members
from gen2embed.mining.clusters import SCHEMA, write_clusters
from gen2embed.mining.filters import Filters
from gen2embed.mining.subsets import make_subsets
from gen2embed.search.exact import Search
from gen2embed.search.neighbours import find_neighbours
from gen2embed.types import Pair
from gen2embed.utils.errors import UserError
from gen2embed.utils.fingerprints import fingerprint_digest
from gen2embed.utils.log import log, progress
from gen2embed.utils.rank_group import ALONE, RankGroup, wait_for

SEARCH = Search()


@dataclass(frozen=True)
class Mined:
    """A table of `clusters.SCHEMA`, its manifest, and the queries and positives that were encoded for it, if any."""

    table: pa.Table
    manifest: dict[str, Any]
    encoded: tuple[Encoded, ...]


def mine_pairs(
    model: Model,
    engine: Engine,
    pairs: Sequence[Pair],
    miner: Miner,
    classification: Collection[str],
    search: Search = SEARCH,
    ranks: RankGroup = ALONE,
) -> Mined | None:
    """Mine clusters in every subset of `pairs`.

        1. Check that no subset is too small, and that rows have the scores that the miner filters by.
        2. Embed the queries and the positives; each rank embeds its part.
        3. Search the candidates nearest to each query, subset by subset; each rank searches its part.
        4. Group the rows of each subset into clusters, on rank 0.

    Args:
        model: Embeds the items.
        engine: Runs the model.
        pairs: The rows of all subsets.
        miner: Groups the rows of a subset.
        classification: The names of the classification subsets.
        search: How neighbours are searched.
        ranks: The ranks that share the work.

    Returns:
        The clusters on rank 0, None on the others.

    Raises:
        UserError: A subset is too small for the miner, or has no scores of another model that it filters by.
    """
    rows_of = rows_by_subset(pairs)
    _check_sizes(rows_of, miner)
    _check_scores(pairs, miner)
    if ranks.rank == 0:
        _warn_of_lone_positives(pairs)
    encoded = _encode(model, engine, pairs, ranks) if miner.embeds else ()
    subsets = make_subsets(pairs, rows_of, encoded, classification)
    searched = _search(model, pairs, rows_of, subsets, miner, search, ranks) if miner.neighbours else {}
    if ranks.rank > 0:
        return None
    table = _group(pairs, rows_of, subsets, miner)
    return Mined(table, {**describe_mining(model, pairs, miner, search), "searched": searched}, encoded)


def describe_mining(model: Model, pairs: Sequence[Pair], miner: Miner, search: Search) -> dict[str, Any]:
    """Return what decides the clusters that `miner` makes of `pairs`: if it is equal, so are the clusters."""
    scores = [pair.teacher_score for pair in pairs]
    return {
        "kind": type(miner).__name__,
        "settings": asdict(miner),  # type: ignore[call-overload]
        **_digests(pairs),
        "rows": len(pairs),
        "subsets": list(dict.fromkeys(pair.subset for pair in pairs)),
        "embedding": model.fingerprint if miner.embeds else None,
        "teacher": fingerprint_digest({"scores": scores}) if any(score is not None for score in scores) else None,
        "search": search.describe() if miner.neighbours else None,
    }


def _check_sizes(rows_of: Mapping[str, Sequence[int]], miner: Miner) -> None:
    """Raise `UserError` for a subset that is too small."""
    for name, rows in rows_of.items():
        if len(rows) == 1:
            raise UserError(f"subset {name} has one row, and a cluster needs two; add rows, or leave the subset out")
        if miner.top_k >= len(rows):
            raise UserError(
                f"mining.top_k={miner.top_k} is larger than the data: subset {name} has {len(rows)} rows; set it to "
                f"{len(rows) - 1} or less, or leave the subset out"
            )


def _check_scores(pairs: Sequence[Pair], miner: Miner) -> None:
    """Raise `UserError` for rows without the score that the miner filters by."""
    if not isinstance(miner, Filters) or miner.min_teacher_score is None:
        return
    if unscored := [pair.subset for pair in pairs if pair.teacher_score is None]:
        raise UserError(
            f"mining.min_teacher_score needs a score for each row, and {len(unscored)} have none, the first in subset "
            f"{unscored[0]}; set data.teacher_column to the column of them"
        )


def _warn_of_lone_positives(pairs: Sequence[Pair]) -> None:
    for name, rows in Positives.from_pairs(pairs).lone_subsets(pairs).items():
        log.warning(
            "every pair of subset %s has the same positive (%d rows): its clusters hold no negative", name, len(rows)
        )


def _encode(model: Model, engine: Engine, pairs: Sequence[Pair], ranks: RankGroup) -> tuple[Encoded, ...]:
    """Return the vectors of the queries and of the positives."""
    encoded = (
        engine.encode(model, [pair.query for pair in pairs], "query", "queries", ranks),
        engine.encode(model, [pair.positive for pair in pairs], "candidate", "candidates", ranks),
    )
    if ranks.rank == 0:
        warn_if_collapsed(encoded[0].vectors.numpy(), "query")
        warn_if_collapsed(encoded[1].vectors.numpy(), "candidate")
    return encoded


def _search(
    model: Model,
    pairs: Sequence[Pair],
    rows_of: Mapping[str, Sequence[int]],
    subsets: dict[str, Subset],
    miner: Miner,
    search: Search,
    ranks: RankGroup,
) -> dict[str, Any]:
    """Add the nearest candidates to every subset; return how each was searched."""
    searched: dict[str, Any] = {}
    with progress("searching", len(pairs), shown=ranks.rank == 0) as advance:
        for name, subset in subsets.items():
            digests = _digests([pairs[row] for row in rows_of[name]])
            decided_by = {"embedding": model.fingerprint, "subset": name, **digests}
            stored = replace(search, store=search.store and Path(search.store) / quote(name, safe=""))
            neighbours = find_neighbours(
                stored, subset.queries, subset.candidates, miner.neighbours, decided_by, ranks, advance
            )
            subsets[name], searched[name] = replace(subset, nearest=neighbours.indices), neighbours.searched
    return searched


def _group(
    pairs: Sequence[Pair], rows_of: Mapping[str, Sequence[int]], subsets: Mapping[str, Subset], miner: Miner
) -> pa.Table:
    """Return the clusters of all subsets as a table of `SCHEMA`, numbered through."""
    rows: list[dict[str, Any]] = []
    number = itertools.count()
    with progress("grouping", len(pairs)) as advance:
        for name, subset in subsets.items():
            subset_rows = rows_of[name]
            for members in check_members(miner.mine(subset, advance), len(subset_rows), miner):
                rows += _rows(next(number), members, subset, [pairs[subset_rows[member]] for member in members])
    return pa.Table.from_pylist(rows, SCHEMA)


def mine_once(
    folder: Path,
    model: Model,
    pairs: Sequence[Pair],
    miner: Miner,
    engine: Engine,
    classification: Collection[str],
    search: Search = SEARCH,
) -> Path:
    """Return the clusters' file in `folder`, mined unless it is there; its name is the digest of what decides it."""
    path = _path(folder, model, pairs, miner, search)
    if not path.is_file():
        mined = mine_pairs(model, engine, pairs, miner, classification, search)
        assert mined is not None  # this process is alone
        write_clusters(path, mined.table, mined.manifest)
    return path


def await_mined(
    folder: Path, model: Model, pairs: Sequence[Pair], miner: Miner, seconds: float, search: Search = SEARCH
) -> Path:
    """Return the file that `mine_once` of rank 0 writes; raises `UserError` if it does not come in time."""
    path = _path(folder, model, pairs, miner, search)
    if wait_for([path], seconds):
        raise UserError(
            f"rank 0 did not mine {path} within {seconds:g} seconds; set data.clusters to what mine.py mined, or "
            "raise trainer.strategy.timeout_seconds"
        )
    return path


def _path(folder: Path, model: Model, pairs: Sequence[Pair], miner: Miner, search: Search) -> Path:
    return folder / f"{fingerprint_digest(describe_mining(model, pairs, miner, search))}.parquet"


def _digests(pairs: Sequence[Pair]) -> dict[str, str]:
    """Return what decides the vectors and their order: digests of the rows, and of their files as they are now."""
    return {"data": data_fingerprint(pairs), "items": items_digest(pairs)}


def _rows(number: int, members: Sequence[int], subset: Subset, pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """Return the rows of one cluster in `SCHEMA`; similarities are null where nothing was embedded."""
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
