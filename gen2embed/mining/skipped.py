"""The owners that an anchor did not keep, for a seeded sample of anchors: beside clusters, what a miner is judged by.

It looks at clusters and embeddings alone, so it holds for every miner that embeds:

    1. At most `ANCHORS` clusters of each subset are drawn. An anchor's pool is its 2*K*m nearest candidates.
    2. Of each candidate in the pool that is no positive of the anchor's query and of no row in its cluster, the owner
       most similar to the anchor was skipped.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gen2embed.mining.base import Miner, Subset
from gen2embed.mining.mine import Mined, make_subset
from gen2embed.search.exact import nearest
from gen2embed.types import Pair
from gen2embed.utils.files import write_atomic
from gen2embed.utils.fingerprints import digest
from gen2embed.utils.log import progress

ANCHORS = 200  # a subset
PAPER_MULTIPLIER = 3  # m, for miners that have none, so that all are judged on pools of one size
MOST_OWNERS = 256  # compared for one candidate; of more, every so-manieth

SCHEMA = pa.schema(
    {
        "cluster": pa.int64(),
        "subset": pa.dictionary(pa.int32(), pa.string()),
        "row": pa.int64(),
        "similarity": pa.float32(),  # of the anchor query to this row's positive
        "owner_similarity": pa.float32(),  # of the anchor query to this row's query
    }
)


def skipped_owners(mined: Mined, pairs: Sequence[Pair], miner: Miner, seed: int) -> pa.Table:
    """A table of `SCHEMA`, with the sample's size, seed and clusters in its metadata; empty if nothing was embedded."""
    pool = 2 * miner.top_k * getattr(miner, "pool_multiplier", PAPER_MULTIPLIER)
    rows: list[dict[str, object]] = []
    if mined.encoded:
        queries, positives = (side.vectors for side in mined.encoded)
        members = _members(mined.table)
        subsets: dict[str, list[int]] = {}
        for index, pair in enumerate(pairs):
            subsets.setdefault(pair.subset, []).append(index)
        with progress("sampling skipped owners", len(subsets)) as advance:
            for name, indices in subsets.items():
                if clusters := _drawn(members, name, seed):
                    its = [pairs[index] for index in indices]
                    place = {(pair.subset, pair.row): local for local, pair in enumerate(its)}
                    kept = [[place[row] for row in members[cluster] if row in place] for cluster in clusters]
                    subset = make_subset(its, queries[indices].numpy(), positives[indices].numpy(), False)
                    for cluster, owner, *similarities in _skipped(subset, clusters, kept, pool):
                        values = (cluster, name, its[owner].row, *similarities)
                        rows.append(dict(zip(SCHEMA.names, values, strict=True)))
                advance()
    sample = {"anchors": ANCHORS, "pool": pool, "seed": seed, "clusters": digest(mined.manifest)}
    return pa.Table.from_pylist(rows, SCHEMA).replace_schema_metadata({"gen2embed": json.dumps(sample)})


def write_skipped(path: Path, table: pa.Table) -> None:
    write_atomic(path, lambda file: pq.write_table(table, file))


def _members(table: pa.Table) -> dict[int, list[tuple[str, int]]]:
    """Subset and row of each cluster's members, the anchor first."""
    members: dict[int, list[tuple[str, int]]] = {}
    for cluster, *row in zip(*(table[name].to_pylist() for name in ("cluster", "subset", "row")), strict=True):
        members.setdefault(cluster, []).append((row[0], row[1]))
    return members


def _drawn(members: dict[int, list[tuple[str, int]]], subset: str, seed: int) -> list[int]:
    """At most `ANCHORS` of the clusters whose anchor is in `subset`; other subsets do not change the draw."""
    its = [cluster for cluster, rows in members.items() if rows[0][0] == subset]
    random = np.random.default_rng([seed, *subset.encode()])
    return sorted(random.choice(its, min(ANCHORS, len(its)), replace=False).tolist()) if its else []


def _skipped(
    subset: Subset, clusters: Sequence[int], kept: Sequence[Sequence[int]], pool: int
) -> Iterator[tuple[int, int, float, float]]:
    """Cluster, row and both similarities of each skipped owner. kept: the members of each cluster, the anchor first."""
    found = nearest(subset.queries[[rows[0] for rows in kept]], subset.candidates, pool)
    order = np.argsort(subset.positive, kind="stable")
    starts = np.searchsorted(subset.positive[order], np.arange(len(subset.candidates) + 1))
    for cluster, rows, candidates in zip(clusters, kept, found, strict=True):
        anchor = subset.queries[rows[0]]
        own = subset.positive[subset.query_ids == subset.query_ids[rows[0]]]
        for candidate in candidates[~np.isin(candidates, [*own, *subset.positive[rows]])]:
            owners = order[starts[candidate] : starts[candidate + 1]]
            owners = owners[:: -(-len(owners) // MOST_OWNERS)]
            similarities = subset.queries[owners] @ anchor
            best = int(np.argmax(similarities))
            yield cluster, int(owners[best]), float(anchor @ subset.candidates[candidate]), float(similarities[best])
