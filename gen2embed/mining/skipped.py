"""The owners that an anchor did not keep, for a seeded sample of anchors: a miner is judged by them.

Only clusters and embeddings are looked at, so the sample is the same for every miner that embeds:

    1. At most `ANCHORS` clusters of each subset are drawn. An anchor's pool is its 2*K*m nearest candidates.
    2. A candidate in the pool was skipped if it is no positive of the anchor's query and of no row in its cluster. The
       one of its owners that is most similar to the anchor stands for it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gen2embed.data.numbering import rows_by_subset
from gen2embed.encoding.engine import Encoded
from gen2embed.mining.base import Miner, Subset
from gen2embed.mining.mine import Mined
from gen2embed.mining.owners import GroupIndex
from gen2embed.mining.subsets import make_subset
from gen2embed.search.exact import nearest
from gen2embed.types import Pair
from gen2embed.utils.files import write_atomic
from gen2embed.utils.fingerprints import fingerprint_digest
from gen2embed.utils.log import progress

ANCHORS = 200  # sampled of each subset
PAPER_MULTIPLIER = 3  # m, for miners that have none, so that all are judged on pools of one size
MOST_OWNERS = 256  # that are compared for one candidate; of more, an evenly spaced sample

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
    """Return a table of `SCHEMA`, empty if nothing was embedded; the sample's size and seed are in its metadata."""
    pool = 2 * miner.top_k * getattr(miner, "pool_multiplier", PAPER_MULTIPLIER)
    rows: list[dict[str, object]] = []
    if mined.encoded:
        clusters = _read_members(mined.table)
        rows_of = rows_by_subset(pairs)
        with progress("sampling skipped owners", len(rows_of)) as advance:
            for name, positions in rows_of.items():
                if sample := _draw(clusters, name, seed):
                    rows += _subset_rows(mined.encoded, pairs, positions, clusters, sample, pool)
                advance()
    sample_info = {"anchors": ANCHORS, "pool": pool, "seed": seed, "clusters": fingerprint_digest(mined.manifest)}
    return pa.Table.from_pylist(rows, SCHEMA).replace_schema_metadata({"gen2embed": json.dumps(sample_info)})


def write_skipped(path: Path, table: pa.Table) -> None:
    """Write the table of `skipped_owners`, whole or not at all."""
    write_atomic(path, lambda file: pq.write_table(table, file))


def _read_members(table: pa.Table) -> dict[int, list[tuple[str, int]]]:
    """Return subset and row of each cluster's members, the anchor first."""
    members: dict[int, list[tuple[str, int]]] = {}
    for cluster, *row in zip(*(table[name].to_pylist() for name in ("cluster", "subset", "row")), strict=True):
        members.setdefault(cluster, []).append((row[0], row[1]))
    return members


def _draw(clusters: Mapping[int, Sequence[tuple[str, int]]], subset: str, seed: int) -> list[int]:
    """Return at most `ANCHORS` of the clusters whose anchor is in `subset`; other subsets do not change the draw."""
    own = [cluster for cluster, members in clusters.items() if members[0][0] == subset]
    random = np.random.default_rng([seed, *subset.encode()])
    return sorted(random.choice(own, min(ANCHORS, len(own)), replace=False).tolist()) if own else []


def _subset_rows(
    encoded: Sequence[Encoded],
    pairs: Sequence[Pair],
    positions: Sequence[int],
    clusters: Mapping[int, Sequence[tuple[str, int]]],
    sample: Sequence[int],
    pool: int,
) -> Iterator[dict[str, object]]:
    """Yield the rows of `SCHEMA` of the sampled clusters of one subset, whose pairs are at `positions`."""
    subset_pairs = [pairs[position] for position in positions]
    queries, positives = (side.vectors[positions].numpy() for side in encoded)
    subset = make_subset(subset_pairs, queries, positives, classification=False)
    row_of = {(pair.subset, pair.row): row for row, pair in enumerate(subset_pairs)}
    kept = [[row_of[member] for member in clusters[cluster] if member in row_of] for cluster in sample]
    for cluster, owner, *similarities in _skipped(subset, sample, kept, pool):
        values = (cluster, subset_pairs[owner].subset, subset_pairs[owner].row, *similarities)
        yield dict(zip(SCHEMA.names, values, strict=True))


def _skipped(
    subset: Subset, sample: Sequence[int], kept: Sequence[Sequence[int]], pool: int
) -> Iterator[tuple[int, int, float, float]]:
    """Yield cluster, row and both similarities of each skipped owner; `kept` are the rows of each cluster."""
    pools = nearest(subset.queries[[rows[0] for rows in kept]], subset.candidates, pool)
    owners_of = GroupIndex(subset.positive, len(subset.candidates))
    for cluster, rows, candidates in zip(sample, kept, pools, strict=True):
        anchor = subset.queries[rows[0]]
        own = subset.positive[subset.query_ids == subset.query_ids[rows[0]]]
        for candidate in candidates[~np.isin(candidates, [*own, *subset.positive[rows]])]:
            owners = owners_of[candidate]
            owners = owners[:: -(-len(owners) // MOST_OWNERS)]
            similarities = subset.queries[owners] @ anchor
            best = int(np.argmax(similarities))
            yield cluster, int(owners[best]), float(anchor @ subset.candidates[candidate]), float(similarities[best])
