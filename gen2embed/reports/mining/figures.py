"""A mining run's rows in columns, and its figures: sizes, coverage, similarities, duplicates."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gen2embed.data.numbering import number_distinct
from gen2embed.mining.clusters import read_table
from gen2embed.types import Item, Pair
from gen2embed.utils.errors import UserError
from gen2embed.utils.fingerprints import fingerprint_digest

OWN = "own positive"


@dataclass(frozen=True)
class ClusterRows:
    """Rows of a file, by cluster and in it by position.

    Attributes:
        cluster: The number of each row's cluster, (rows,).
        pair: The index of each row among the run's pairs, (rows,).
        similarity: The similarity of the anchor's query to the row's positive, (rows,); NaN where nothing was embedded.
        owner_similarity: The similarity of the anchor's query to the row's query, likewise.
    """

    cluster: np.ndarray
    pair: np.ndarray
    similarity: np.ndarray
    owner_similarity: np.ndarray

    def where(self, chosen: np.ndarray) -> ClusterRows:
        """Return the rows that a mask or indices choose."""
        return ClusterRows(*(column[chosen] for column in vars(self).values()))


@dataclass(frozen=True)
class MinedSubset:
    """One subset's rows, the clusters whose anchors are in it, and the owners that a sample of these skipped.

    Attributes:
        name: The name of the subset.
        pairs: The indices of its rows among the run's pairs.
        covered: How many of them some cluster holds.
        members: The rows of the clusters.
        skipped: The rows that anchors skipped.
    """

    name: str
    pairs: np.ndarray
    covered: int
    members: ClusterRows
    skipped: ClusterRows

    @cached_property
    def anchors(self) -> np.ndarray:
        """Return where each cluster begins in `members`."""
        return np.unique(self.members.cluster, return_index=True)[1]

    @property
    def sizes(self) -> np.ndarray:
        """Return the rows of each cluster."""
        return np.diff(self.anchors, append=len(self.members.cluster))

    @property
    def owners(self) -> np.ndarray:
        """Return which of `members` are no anchors."""
        return np.isin(np.arange(len(self.members.cluster)), self.anchors, invert=True)


@dataclass(frozen=True)
class MiningRun:
    """A mining run.

    Attributes:
        manifest: The manifest of the clusters.
        sample: How skipped owners were sampled; None if they were not.
        pairs: The pairs that were mined.
        queries: A number for each pair's query, equal where mining takes two for the same.
        positives: A number for each pair's positive, likewise.
        subsets: The subsets, in the order of the pairs.
    """

    manifest: Mapping[str, Any]
    sample: Mapping[str, Any] | None
    pairs: Sequence[Pair]
    queries: np.ndarray
    positives: np.ndarray
    subsets: Sequence[MinedSubset]

    @property
    def embedded(self) -> bool:
        """Return whether items were embedded, as there are no similarities otherwise."""
        return self.manifest["embedding"] is not None


def read_run(folder: Path, pairs: Sequence[Pair]) -> MiningRun:
    """Return the run in a folder of mine.py; raises `UserError` for no clusters, or for those of other rows."""
    table, manifest = read_table(folder / "clusters.parquet", pairs)
    place = {(pair.subset, pair.row): index for index, pair in enumerate(pairs)}
    members = _columns(table, place)
    skipped, sample = _read_skipped(folder / "skipped.parquet", manifest, place)
    subset_of_pair, firsts = number_distinct(pair.subset for pair in pairs)
    names = [pairs[first].subset for first in firsts]
    clusters, first = np.unique(members.cluster, return_index=True)
    subset_of_cluster = subset_of_pair[members.pair[first]]  # that of the anchor
    covered = np.bincount(subset_of_pair[np.unique(members.pair)], minlength=len(names))
    subsets = []
    for number, name in enumerate(names):
        own = clusters[subset_of_cluster == number]
        parts = (rows.where(np.isin(rows.cluster, own)) for rows in (members, skipped))
        subsets.append(MinedSubset(name, np.flatnonzero(subset_of_pair == number), int(covered[number]), *parts))
    queries, positives = (
        number_distinct(_identity(getattr(pair, side)) for pair in pairs)[0] for side in ("query", "positive")
    )
    return MiningRun(manifest, sample, pairs, queries, positives, subsets)


def _columns(table: pa.Table, place: Mapping[tuple[str, int], int]) -> ClusterRows:
    if "position" in table.column_names:
        table = table.sort_by([("cluster", "ascending"), ("position", "ascending")])
    pair = [place[row] for row in zip(table["subset"].to_pylist(), table["row"].to_pylist(), strict=True)]
    similarity = (table[name].to_numpy().astype(np.float32) for name in ("similarity", "owner_similarity"))
    return ClusterRows(table["cluster"].to_numpy(), np.array(pair, np.int64), *similarity)


def _read_skipped(
    path: Path, manifest: Mapping[str, Any], place: Mapping[tuple[str, int], int]
) -> tuple[ClusterRows, Mapping[str, Any] | None]:
    if not path.is_file():
        return ClusterRows(*(np.empty(0, kind) for kind in (np.int64, np.int64, np.float32, np.float32))), None
    table = pq.read_table(path)
    sample = json.loads(table.schema.metadata[b"gen2embed"])
    if sample["clusters"] != fingerprint_digest(manifest):
        raise UserError(f"{path} was sampled from other clusters than those beside it; mine again, or remove it")
    return _columns(table, place), sample


def _identity(item: Item) -> tuple[tuple[str, str], ...]:
    """Return what is equal where `Item.key` is; a picture whose file is gone is known by its path."""

    def named(part: Any) -> tuple[str, str]:
        if isinstance(part, str):
            return "text", part
        try:
            return "picture", part.key
        except UserError:
            return "picture", str(part)

    return ("instruction", item.instruction or ""), *map(named, item.parts)


# --- figures --------------------------------------------------------------------------------------------------------


def values(subsets: Sequence[MinedSubset], column: str) -> dict[str, np.ndarray]:
    """Return a similarity of the owners that anchors kept and skipped, and of the anchors' own positives."""
    groups = {
        "kept": [getattr(subset.members, column)[subset.owners] for subset in subsets],
        "skipped": [getattr(subset.skipped, column) for subset in subsets],
    }
    if column == "similarity":
        groups[OWN] = [subset.members.similarity[subset.anchors] for subset in subsets]
    joined = {name: np.concatenate(parts) for name, parts in groups.items()}
    return {name: cosines[~np.isnan(cosines)] for name, cosines in joined.items()}


def duplicates(run: MiningRun, subset: MinedSubset) -> dict[str, int]:
    """Return how many rows have a query, a positive, or both that another row of the subset has, too."""
    queries, positives = run.queries[subset.pairs], run.positives[subset.pairs]
    numbers = {"query": queries, "positive": positives, "both": queries * len(run.pairs) + positives}
    counts = {name: np.unique(side, return_counts=True)[1] for name, side in numbers.items()}
    return {name: int(rows[rows > 1].sum()) for name, rows in counts.items()}


def clashes(run: MiningRun, subset: MinedSubset) -> int:
    """Return how many clusters hold two rows of one query or of one positive: certain false negatives."""
    number = np.repeat(np.arange(len(subset.sizes)), subset.sizes)
    clash = np.zeros(len(subset.sizes), bool)
    for side in (run.queries, run.positives):
        distinct = np.unique(number * len(run.pairs) + side[subset.members.pair]) // len(run.pairs)
        clash |= np.bincount(distinct, minlength=len(clash)) < subset.sizes
    return int(clash.sum())


def facts(run: MiningRun, subset: MinedSubset) -> dict[str, Any]:
    """Return the figures of one subset."""
    top_k, sizes = run.manifest["settings"].get("top_k"), subset.sizes
    most = len(np.unique(run.positives[subset.pairs]))  # rows of one positive do not meet
    kept = {column: values([subset], column)["kept"] for column in ("similarity", "owner_similarity")}
    return {
        "name": subset.name,
        "rows": len(subset.pairs),
        "clusters": len(sizes),
        "sizes": (int(sizes.min()), float(sizes.mean()), int(sizes.max())) if len(sizes) else None,
        "full": int((sizes >= min(top_k + 1, most)).sum()) if top_k else None,
        "covered": subset.covered,
        **{column: float(cosines.mean()) if len(cosines) else None for column, cosines in kept.items()},
        "duplicates": duplicates(run, subset),
        "clashes": clashes(run, subset),
    }
