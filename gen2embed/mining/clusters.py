"""Clusters on disk: one parquet file, with its manifest in the file's own metadata."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gen2embed.data.pairs import data_fingerprint, items_digest
from gen2embed.types import Pair
from gen2embed.utils.errors import UserError
from gen2embed.utils.files import write_atomic
from gen2embed.utils.log import log

SCHEMA = pa.schema(
    {
        "cluster": pa.int64(),
        "position": pa.int32(),  # 0 is the anchor
        "subset": pa.dictionary(pa.int32(), pa.string()),
        "row": pa.int64(),
        "similarity": pa.float32(),  # of the anchor query to this row's positive
        "owner_similarity": pa.float32(),  # of the anchor query to this row's query
        "teacher_score": pa.float32(),  # of this row's query to its positive, by another model; may be null
    }
)


@dataclass(frozen=True)
class Clusters:
    """Mined clusters of a list of pairs.

    Args:
        path: The file that they were read from.
        members: The positions of each cluster's pairs, the anchor first.
        manifest: What they were mined from, and how.
    """

    path: Path
    members: Sequence[Sequence[int]]
    manifest: dict[str, Any]

    @property
    def largest(self) -> int:
        """The number of rows of a full cluster."""
        return self.manifest["settings"]["top_k"] + 1


def warn_of_other_pictures(clusters: Clusters, pairs: Sequence[Pair]) -> None:
    """Warn if pictures of these rows have another content than when the clusters were mined."""
    current = items_digest(pairs)
    if clusters.manifest.get("items", current) != current:
        log.warning(
            "pictures or texts of the rows have changed since the clusters %s were mined; mine again",
            clusters.path,
        )


def write_clusters(path: Path, table: pa.Table, manifest: dict[str, Any]) -> None:
    """Write a table of `SCHEMA` with its manifest, whole or not at all."""
    described = table.replace_schema_metadata({"gen2embed": json.dumps(manifest)})
    write_atomic(path, lambda file: pq.write_table(described, file))


def read_table(path: Path, pairs: Sequence[Pair]) -> tuple[pa.Table, dict[str, Any]]:
    """Return the table and the manifest of clusters; raises `UserError` unless they were mined from these pairs."""
    if not path.is_file():
        raise UserError(f"the clusters {path} do not exist; mine them with mine.py")
    table = pq.read_table(path)
    metadata = (table.schema.metadata or {}).get(b"gen2embed")
    if metadata is None or not set(SCHEMA.names) <= set(table.column_names):
        raise UserError(f"{path} holds no clusters: mine.py writes {', '.join(SCHEMA.names)} and a manifest")
    manifest, fingerprint = json.loads(metadata), data_fingerprint(pairs)
    if manifest["data"] != fingerprint:
        raise UserError(
            f"the clusters {path} were mined from other data: {manifest['rows']} rows of "
            f"{', '.join(manifest['subsets'])} (fingerprint {manifest['data']}), and these are {len(pairs)} rows "
            f"(fingerprint {fingerprint}); mine again"
        )
    return table, manifest


def read_clusters(path: Path, pairs: Sequence[Pair]) -> Clusters:
    """Return the clusters in a file; raises `UserError` unless they were mined from these pairs."""
    table, manifest = read_table(path, pairs)
    position = {(pair.subset, pair.row): index for index, pair in enumerate(pairs)}
    members: dict[int, list[int]] = {}
    for cluster, subset, row in zip(*(table[name].to_pylist() for name in ("cluster", "subset", "row")), strict=True):
        members.setdefault(cluster, []).append(position[subset, row])
    return Clusters(path, list(members.values()), manifest)


def check_miner(clusters: Clusters, model: str, is_model: Callable[[str], bool] | None = None) -> None:
    """Raise `UserError` if another model mined the clusters.

    Args:
        clusters: The clusters.
        model: The identity of the model that trains on them.
        is_model: Returns whether a recorded identity, which may be one of an earlier version, is that model's. None
            compares the two.
    """
    miner = (clusters.manifest["embedding"] or {}).get("model")
    if miner is not None and not (is_model(miner) if is_model else miner == model):
        raise UserError(
            f"the clusters {clusters.path} were mined with another model: {miner}, and this is {model}; mine again, or "
            "set data.clusters_of_any_model=true to train on them"
        )
