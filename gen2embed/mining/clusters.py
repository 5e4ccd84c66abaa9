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
    """Lists of positions in the list of pairs, the anchor first, with what they were mined from and how."""

    path: Path
    members: Sequence[Sequence[int]]
    manifest: dict[str, Any]

    @property
    def largest(self) -> int:
        """Rows of a full cluster."""
        return self.manifest["settings"]["top_k"] + 1


def warn_of_other_pictures(clusters: Clusters, pairs: Sequence[Pair]) -> None:
    """Warn if pictures of these rows have another content than when the clusters were mined."""
    if clusters.manifest.get("items", here := items_digest(pairs)) != here:
        log.warning(
            "pictures or texts of the rows have changed since the clusters %s were mined; mine again to have their "
            "neighbours",
            clusters.path,
        )


def write_clusters(path: Path, table: pa.Table, manifest: dict[str, Any]) -> None:
    """Write a table of `SCHEMA` with its manifest, whole or not at all."""
    described = table.replace_schema_metadata({"gen2embed": json.dumps(manifest)})
    write_atomic(path, lambda file: pq.write_table(described, file))


def read_table(path: Path, pairs: Sequence[Pair]) -> tuple[pa.Table, dict[str, Any]]:
    """The table and the manifest of clusters of these very pairs; raises `UserError` for those of other data."""
    if not path.is_file():
        raise UserError(f"the clusters {path} do not exist; mine them with mine.py")
    table = pq.read_table(path)
    metadata = (table.schema.metadata or {}).get(b"gen2embed")
    if metadata is None or not set(SCHEMA.names) <= set(table.column_names):
        raise UserError(f"{path} holds no clusters: mine.py writes {', '.join(SCHEMA.names)} and a manifest")
    manifest = json.loads(metadata)
    if manifest["data"] != (here := data_fingerprint(pairs)):
        raise UserError(
            f"the clusters {path} were mined from other data: {manifest['rows']} rows of "
            f"{', '.join(manifest['subsets'])} (fingerprint {manifest['data']}), and these are {len(pairs)} rows "
            f"(fingerprint {here}); mine again"
        )
    return table, manifest


def read_clusters(path: Path, pairs: Sequence[Pair]) -> Clusters:
    """Read clusters of these very pairs; raises `UserError` for those of other data."""
    table, manifest = read_table(path, pairs)
    position = {(pair.subset, pair.row): index for index, pair in enumerate(pairs)}
    members: dict[int, list[int]] = {}
    for cluster, subset, row in zip(*(table[name].to_pylist() for name in ("cluster", "subset", "row")), strict=True):
        members.setdefault(cluster, []).append(position[subset, row])
    return Clusters(path, list(members.values()), manifest)


def check_miner(clusters: Clusters, model: str, is_model: Callable[[str], bool] | None = None) -> None:
    """Raise `UserError` if another model than `model`, an identity, mined the clusters.

    is_model: whether a recorded identity is that model's, which may be one of an earlier version; None compares them.
    """
    miner = (clusters.manifest["embedding"] or {}).get("model")
    if miner is not None and not (is_model(miner) if is_model else miner == model):
        raise UserError(
            f"the clusters {clusters.path} were mined with another model: {miner}, and this is {model}; mine again, or "
            "set data.clusters_of_any_model=true to train on them"
        )
