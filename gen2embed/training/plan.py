"""Which pairs share a batch: the clusters to train on, and the plan of all batches."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from lightning import Trainer

from gen2embed.data.positives import Positives
from gen2embed.encoding.engine import Engine
from gen2embed.mining.base import Miner
from gen2embed.mining.clusters import Clusters, check_miner, read_clusters, warn_of_other_pictures
from gen2embed.mining.mine import await_mined, mine_once
from gen2embed.model.embedder import Embedder
from gen2embed.search.exact import Search
from gen2embed.training.batches import ClusterBatchSampler, check_sizes
from gen2embed.training.recipe import BatchSettings
from gen2embed.training.weights import tempered
from gen2embed.types import Pair
from gen2embed.utils.files import write_atomic


def plan_batches(
    pairs: Sequence[Pair], batch: BatchSettings, seed: int, ranks: int, clusters: Clusters | Miner | None
) -> ClusterBatchSampler:
    """Return the plan of a run's batches, still without clusters.

    Args:
        pairs: The training rows.
        batch: The settings of the batches.
        seed: The seed of the order of the batches.
        ranks: The number of ranks that share a batch when the run begins.
        clusters: The clusters of the run, or the miner that will make them. A rank's part of a batch holds whole ones.

    Raises:
        UserError: Sizes or weights do not fit the pairs.
    """
    largest = clusters.largest if isinstance(clusters, Clusters) else clusters.top_k + 1 if clusters else 1
    check_sizes(len(pairs), batch.pairs, largest, ranks)
    subsets, weights = [pair.subset for pair in pairs], batch.weights
    if batch.temperature is not None:
        weights = tempered(subsets, batch.temperature)
    return ClusterBatchSampler(
        [],
        len(pairs),
        batch.pairs,
        seed,
        ranks,
        subsets,
        mixed=batch.mixed,
        weights=weights,
        positives=Positives.from_pairs(pairs),
        distinct=batch.distinct_positives,
    )


def check_clusters(
    clusters: Clusters, embedder: Embedder, pairs: Sequence[Pair], *, any_model: bool, warn: bool = True
) -> None:
    """Raise `UserError` if another model mined the clusters; warn if the pairs' pictures changed since.

    Args:
        clusters: The clusters to train on.
        embedder: The embedder that is trained.
        pairs: The rows of the clusters.
        any_model: Whether another model may have mined the clusters.
        warn: Whether this rank warns.
    """
    if not any_model:
        check_miner(clusters, embedder.backbone.identity, embedder.backbone.is_identified_by)
    if warn:
        warn_of_other_pictures(clusters, pairs)


def mine_on_rank_zero(
    trainer: Trainer,
    embedder: Embedder,
    engine: Engine,
    pairs: Sequence[Pair],
    miner: Miner,
    classification: Collection[str],
    search: Search,
    folder: Path,
) -> Clusters:
    """Return the clusters of the miner, which rank 0 mines and every rank reads.

    The ranks meet at the clusters' file, whose name is the digest of what decides them. There is no process group yet:
    Lightning starts its ranks and connects them when it fits, after rank 0 has mined.

    Raises:
        UserError: Rank 0 has not mined within the strategy's timeout; the other ranks raise it.
    """
    if trainer.is_global_zero:
        path = mine_once(folder, embedder, pairs, miner, engine, classification, search)
    else:
        path = await_mined(folder, embedder, pairs, miner, trainer.strategy.timeout_seconds, search)  # type: ignore[attr-defined]
    return read_clusters(path, pairs)


def copy_clusters(clusters: Clusters | None, folder: Path) -> None:
    """Copy the clusters, if there are some, into the run's folder."""
    if clusters:
        content = clusters.path.read_bytes()
        write_atomic(folder / "clusters.parquet", lambda file: file.write(content))
