"""Fine-tune a multimodal LLM as an embedder, and evaluate it; `python train.py --help` shows the options."""

import math
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from lightning import Trainer, seed_everything
from omegaconf import DictConfig

from gen2embed.config.values import plain
from gen2embed.data.benchmark import Benchmark
from gen2embed.data.pairs import PairSource
from gen2embed.data.positives import Positives
from gen2embed.encoding.batch import ChunkLimit
from gen2embed.encoding.engine import Engine
from gen2embed.encoding.truncation import TruncationCount
from gen2embed.mining.clusters import Clusters, check_miner, read_clusters, warn_of_other_pictures
from gen2embed.mining.mine import await_mined, mine_once
from gen2embed.model.adapter import save
from gen2embed.model.embedder import Embedder
from gen2embed.outputs.paths import check_folder, replace_folder
from gen2embed.outputs.record import RUN
from gen2embed.runs import console
from gen2embed.runs.build import check_sources, make_benchmarks, make_embedder, make_search, make_trainer, read_pairs
from gen2embed.runs.entry import entry_point, start, write_config
from gen2embed.runs.score import evaluate_and_report
from gen2embed.search.products import allow_tf32
from gen2embed.training.batches import ClusterBatchSampler, RankBatchSampler, check_sizes
from gen2embed.training.callbacks import CheckRanksAgree, CountWithoutNegatives, Validate
from gen2embed.training.datamodule import (
    Collate,
    PairDataModule,
    largest_batch,
    several_positives,
    warn_about_positives,
)
from gen2embed.training.module import ContrastiveModule, as_in_training
from gen2embed.training.resume import Resume
from gen2embed.training.shortcuts import keep, predict_step, sample_chunks, take
from gen2embed.training.strategies import sync_of
from gen2embed.training.weights import tempered
from gen2embed.training.zero import Zero
from gen2embed.types import Pair
from gen2embed.utils.errors import UserError
from gen2embed.utils.files import write_atomic
from gen2embed.utils.log import log
from gen2embed.utils.workers import Prefetch, explained

SAMPLED = 32  # pairs whose chunks are looked at before training
MINED = "GEN2EMBED_CLUSTERS"  # what rank 0 mined, for the ranks that Lightning starts from it


@entry_point("train")
def main(cfg: DictConfig) -> None:
    started = time.perf_counter()
    trainer = make_trainer(cfg)
    resume = Resume(plain(cfg), trainer)
    sync_of(trainer.strategy)
    allow_tf32(cfg.tf32)
    check_sources(cfg)
    if cfg.adapter is not None and trainer.is_global_zero:
        sources = [Path(path) for path in (cfg.model.path, cfg.checkpoint) if path is not None]
        for name in ("adapter", "best"):
            check_folder(Path(cfg.output_dir) / name, sources, by=RUN)
    if cfg.model.get("compiled") and cfg.adapter is not None:
        raise UserError(
            "model.compiled=true draws other random numbers in the second pass over a chunk than in the first, so it "
            "is not for training; leave it to mine.py and eval.py"
        )
    start(cfg, trainer, leave=resume.checkpoint is None, continues=resume.checkpoint is not None)
    data: PairSource = instantiate(cfg.data, _convert_="all")
    pairs, miner, batch = read_pairs(data, trainer, Path(cfg.output_dir)), instantiate(cfg.mining), cfg.batch
    clusters = read_clusters(Path(data.clusters), pairs) if data.clusters else None
    largest = clusters.largest if clusters else miner.top_k + 1 if miner else 1
    check_sizes(len(pairs), batch.pairs, largest, resume.ranks, batch.chunk, batch.chunk_tokens)
    benchmarks = make_benchmarks(cfg, cfg.benchmark, trainer) if trainer.is_global_zero else []
    validation = make_benchmarks(cfg, cfg.validation.benchmark, trainer) if cfg.validation else []

    embedder, engine, more = make_embedder(cfg, trainer), instantiate(cfg.engine), dict[str, Any]()
    if cfg.adapter is not None:
        best = validate(cfg, trainer, engine, validation)
        clusters = clusters_of(cfg, trainer, data, pairs, clusters, embedder, engine)
        embedder, cut = fine_tune(cfg, trainer, resume, pairs, clusters, embedder)
        more["training_inputs_cut"] = cut.describe()
        if trainer.is_global_zero:
            embedder = leave(cfg, trainer, embedder, best)
    if trainer.is_global_zero:
        evaluate_and_report(cfg, trainer, embedder, engine, benchmarks, started, more=more)


def fine_tune(
    cfg: DictConfig,
    trainer: Trainer,
    resume: Resume,
    pairs: list[Pair],
    clusters: Clusters | None,
    embedder: Embedder,
) -> tuple[Embedder, TruncationCount]:
    """The embedder after its training, or what is left of it, in evaluation mode; and the inputs that were cut."""
    folder, batch = Path(cfg.output_dir), cfg.batch
    share = RankBatchSampler(plan_of(cfg, resume.ranks, pairs, clusters), trainer.global_rank, ranks=trainer.world_size)
    given = resume.check(embedder, pairs, share.plan)
    trainer.callbacks += [CheckRanksAgree(given), CountWithoutNegatives()]  # type: ignore[attr-defined]
    if trainer.is_global_zero:
        write_config(cfg)
        warn_about_positives(share.plan, pairs)
        if clusters:
            used = clusters.path.read_bytes()
            write_atomic(folder / "clusters.parquet", lambda file: file.write(used))

    seed_everything(cfg.seed, workers=True, verbose=False)
    embedder = replace(embedder, backbone=instantiate(cfg.adapter).attach(embedder.backbone))
    if batch.gradient_checkpointing:
        embedder.backbone.full.activation_checkpointing_enable({"use_reentrant": False})
    loss, sync = instantiate(cfg.loss), sync_of(trainer.strategy)
    trained = replace(embedder, packing=False) if sync.lockstep else embedder
    shortcuts, why = take(instantiate(cfg.shortcuts), trained, lockstep=sync.lockstep)
    limit = ChunkLimit(batch.chunk_tokens or embedder.budget, batch.chunk)
    precision = as_in_training(trainer, embedder.backbone.full)
    prepare = partial(trained.prepare, limit=limit, share=shortcuts.share)
    collate = Collate(prepare, several_positives(pairs) if loss.mask_known else {})
    ahead = Prefetch(batch.workers, batch.prefetch)
    size = largest_batch(pairs, share, collate) if ahead.processes else 0
    ahead.check(size, trainer.num_devices)
    rows = [pairs[row] for row in next(iter(share))[:SAMPLED]]
    sampled = sample_chunks(trained, collate, rows, shortcuts, precision)
    step = partial(
        predict_step,
        trained,
        sampled,
        share.plan.pairs // share.count,
        steps=trainer.max_steps,
        ranks=share.count,
        zero=trainer.strategy.stage if isinstance(trainer.strategy, Zero) else 0,
    )
    device = trained.backbone.device
    sharing = trainer.num_devices if device.type == "cpu" else 1
    kept, why["keep_graphs"] = keep(shortcuts.keep_graphs, step(), sampled, device, sharing)
    if trainer.is_global_zero:
        needed = step(graphs=min(kept, math.ceil(sampled.chunks * share.plan.pairs / share.count / sampled.pairs)))
        shown = (trained, share, pairs, limit, ahead.describe(size), sampled, needed)
        precise = console.precision_in_words(trained, cfg.trainer.precision, cfg.tf32)
        table = console.training_table(*shown, precise, why, trainer.max_steps, folder)
        console.print_table(table)
    module = ContrastiveModule(
        trained, loss, sync, cfg.seed, **instantiate(cfg.optim), shortcuts=replace(shortcuts, keep_graphs=kept)
    )
    with explained():
        trainer.fit(module, PairDataModule(pairs, share, collate, ahead), ckpt_path=resume.checkpoint)
    module.eval().to(trainer.strategy.root_device)  # Lightning leaves it on the CPU
    return embedder, module.cut


def leave(cfg: DictConfig, trainer: Trainer, embedder: Embedder, best: Mapping[str, float]) -> Embedder:
    """Leave the run's adapter, that of the last step or of the best; returns the embedder that has it."""
    folder = Path(cfg.output_dir)
    if best:
        log.info("the adapter is that of step %d, the best of the validation", best["step"])
        replace_folder(folder / "adapter", lambda into: shutil.copytree(folder / "best", into, dirs_exist_ok=True))
        return make_embedder(cfg, trainer, str(folder / "adapter"))
    return replace_folder(folder / "adapter", lambda into: save(embedder, into))


def validate(cfg: DictConfig, trainer: Trainer, engine: Engine, benchmarks: Sequence[Benchmark]) -> dict[str, float]:
    """Have the trainer score its module on the way; returns what will be the best step, if that one is to be kept."""
    if not cfg.validation:
        return {}
    if len(benchmarks) != 1:
        raise UserError("a validation is of one benchmark; choose one with benchmark@validation.benchmark=...")
    settings = {key: value for key, value in plain(cfg.validation).items() if key != "benchmark"}
    callback = Validate(benchmarks[0], engine, Path(cfg.output_dir) / "best", **settings)
    trainer.callbacks.insert(0, callback)  # type: ignore[attr-defined]  # a checkpoint of the step has what it found
    return callback.best if callback.keep == "best" else {}


def plan_of(cfg: DictConfig, ranks: int, pairs: Sequence[Pair], clusters: Clusters | None) -> ClusterBatchSampler:
    """The batches of the run, in parts for the ranks that it began with.

    Raises `UserError` for weights that the data do not have.
    """
    batch, subsets = cfg.batch, [pair.subset for pair in pairs]
    weights = None if batch.weights is None else dict(batch.weights)
    if batch.temperature is not None:
        if weights is not None:
            raise UserError("batch.weights and batch.temperature both say how often subsets come; set one to null")
        weights = tempered(subsets, batch.temperature)
    members = clusters.members if clusters else []
    return ClusterBatchSampler(
        members,
        len(pairs),
        batch.pairs,
        cfg.seed,
        ranks,
        subsets,
        mixed=batch.mixed,
        weights=weights,
        positives=Positives.from_pairs(pairs),
        distinct=batch.distinct_positives,
    )


def clusters_of(
    cfg: DictConfig,
    trainer: Trainer,
    data: PairSource,
    pairs: list[Pair],
    clusters: Clusters | None,
    embedder: Embedder,
    engine: Engine,
) -> Clusters | None:
    """The clusters to train on: those given, if this model mined them; else mined by rank 0; None without a miner."""
    miner = instantiate(cfg.mining)
    if clusters:
        if not data.clusters_of_any_model:
            check_miner(clusters, embedder.backbone.identity, embedder.backbone.is_identified_by)
        if trainer.is_global_zero:
            warn_of_other_pictures(clusters, pairs)
        return clusters
    if not miner:
        return None
    if MINED in os.environ and not trainer.is_global_zero:
        return read_clusters(Path(os.environ[MINED]), pairs)
    mining, search = (Path(cfg.paths.cluster_dir), embedder, pairs, miner), make_search(cfg, trainer)
    if trainer.is_global_zero:
        mined = mine_once(*mining, engine, data.classification, search)
        if trainer.world_size > 1:
            os.environ[MINED] = str(mined)
        return read_clusters(mined, pairs)
    return read_clusters(await_mined(*mining, cfg.trainer.strategy.timeout_seconds, search), pairs)


if __name__ == "__main__":
    main()
