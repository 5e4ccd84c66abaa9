"""Build the parts of a run from its configuration: trainer, recipe, pairs, benchmarks, validation, embedder, search."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from hydra.utils import instantiate
from lightning import Trainer, seed_everything
from lightning.fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Checkpoint
from omegaconf import DictConfig

from gen2embed.config.overrides import chosen_groups, overridden
from gen2embed.config.schema import check_arguments
from gen2embed.config.values import plain
from gen2embed.data.benchmark import Benchmark, list_benchmarks
from gen2embed.data.pairs import PairSource
from gen2embed.data.pictures import check_pictures
from gen2embed.data.quarantine import valid_pairs
from gen2embed.encoding.compression import Compression
from gen2embed.encoding.engine import Engine
from gen2embed.mining.base import Miner, check_miner_class
from gen2embed.model.backbone import check_path
from gen2embed.model.embedder import Embedder
from gen2embed.model.pretrained import find_adapter
from gen2embed.outputs.paths import check_folder, check_writable
from gen2embed.outputs.record import RUN
from gen2embed.reports.evaluation.page import check_count
from gen2embed.search.exact import Search
from gen2embed.training.callbacks import Validate
from gen2embed.training.checkpoint import CheckpointFiles
from gen2embed.training.plain_loss import contrastive_loss
from gen2embed.training.recipe import BatchSettings, Optimization, Recipe
from gen2embed.training.strategies import sync_of
from gen2embed.training.zero import PERSISTENT
from gen2embed.types import Pair
from gen2embed.utils.compat import leave_signals
from gen2embed.utils.errors import UserError, first_line
from gen2embed.utils.log import log


def started_together() -> int:
    """Return how many processes torchrun or Slurm started for this run; 1 if this one starts the others, if any."""
    if TorchElasticEnvironment.detect():
        return int(os.environ["WORLD_SIZE"])
    return int(os.environ["SLURM_NTASKS"]) if SLURMEnvironment.detect() else 1


def make_trainer(cfg: DictConfig) -> Trainer:
    """Return the trainer of `cfg.trainer` with its logger and callbacks.

    Raises `UserError` for what Lightning refuses, and where the processes would not be the trainer's ranks.
    """
    try:
        logger = instantiate(cfg.logger) or False
    except HydraException as error:  # of a package that is missing, or of settings that contradict each other
        first = first_line(error.__cause__ or error)
        raise UserError(f"the logger cannot be made: {first}; install what it needs, or choose logger=csv") from error
    try:
        # Lightning's own requeueing would save in the middle of a step; a job that Slurm starts again goes on by itself
        slurm = [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []
        callbacks = list(instantiate(cfg.get("callbacks") or {}).values())
        make = instantiate(cfg.trainer, _partial_=True)
        trainer = make(
            logger=logger,
            callbacks=callbacks,
            enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
            plugins=[CheckpointFiles(), *slurm, *(make.keywords.get("plugins") or [])],
        )
    except (MisconfigurationException, ModuleNotFoundError, RuntimeError, ValueError, TypeError) as error:
        raise UserError(f"the trainer cannot be made: {error}") from error
    leave_signals(trainer)
    ranks = trainer.num_devices * trainer.num_nodes
    if (started := started_together()) not in (1, ranks):
        raise UserError(
            f"{started} processes were started together, and trainer.devices and num_nodes make {ranks} ranks; make "
            "them equal, with strategy=ddp"
        )
    if ranks > 1 and HydraConfig.get().mode == RunMode.MULTIRUN:
        raise UserError(
            f"a multirun uses one device, and here each of {ranks} ranks would run every job; start each job by "
            "itself, without -m, or choose strategy=single"
        )
    return trainer


def read_pairs(data: PairSource, trainer: Trainer, folder: Path) -> list[Pair]:
    """Return the training pairs of a run in `folder`; rank 0 checks their pictures for all ranks."""
    seconds = getattr(trainer.strategy, "timeout_seconds", 0.0)  # of several ranks; a single one waits for none
    return valid_pairs(data, folder, leader=trainer.is_global_zero, seconds=seconds)


def check_sources(cfg: DictConfig) -> None:
    """Raise `UserError` if the model or the checkpoint of `cfg` is missing, or a store cannot be written."""
    for store in (cfg.engine.store, (cfg.get("search") or {}).get("store"), cfg.paths.cluster_dir):
        if store is not None:
            check_writable(Path(store))
    check_path(cfg.model.path)
    if cfg.checkpoint and find_adapter(cfg.checkpoint, cfg.checkpoint_revision) is None:
        check_path(cfg.checkpoint)


def check_training(cfg: DictConfig, trainer: Trainer) -> None:
    """Raise `UserError` for a strategy, a model or an output folder that training cannot use."""
    sync_of(trainer.strategy)
    if cfg.adapter is None:
        return
    if cfg.model.get("compiled"):
        raise UserError(
            "model.compiled=true draws other random numbers in the second pass over a chunk than in the first, so it "
            "is not for training; leave it to mine.py and eval.py"
        )
    steps = {"max_steps": trainer.max_steps, "log_every_n_steps": trainer.log_every_n_steps}  # type: ignore[attr-defined]
    for name, value in steps.items():
        if value < 1:
            raise UserError(f"trainer.{name} is at least 1 in training; got {value}")
    if trainer.max_epochs == 0:
        raise UserError("trainer.max_epochs=0 trains nothing; set it to 1, and adapter=none to train nothing")
    instantiate(cfg.compression, _convert_="all")
    if trainer.is_global_zero:
        sources = [Path(path) for path in (cfg.model.path, cfg.checkpoint) if path is not None]
        for name in ("adapter", "best"):
            check_folder(Path(cfg.output_dir) / name, sources, by=RUN)


def make_recipe(cfg: DictConfig, trainer: Trainer) -> Recipe:
    """Return how `cfg` trains.

    Raises:
        UserError: A part does not take its settings. The model is not needed to see it.
    """
    check_arguments(BatchSettings, plain(cfg.batch), "batch")
    seed_everything(cfg.seed, workers=True, verbose=False)  # a loss may begin with random weights
    optimization = Optimization(**instantiate(cfg.optim))
    optimization.check(trainer.max_steps)
    loss = contrastive_loss(instantiate(cfg.loss))
    largest = max((parameter.numel() for parameter in loss.parameters()), default=0)
    if sync_of(trainer.strategy).lockstep and largest > PERSISTENT:
        raise UserError(
            f"strategy=deepspeed_zero3 divides the loss's parameter of {largest:,} elements among ranks, and a loss "
            "needs it undivided; choose strategy=deepspeed_zero2"
        )
    return Recipe(
        adapter=instantiate(cfg.adapter),
        loss=loss,
        optimization=optimization,
        shortcuts=instantiate(cfg.shortcuts),
        batch=BatchSettings(**plain(cfg.batch)),
        seed=cfg.seed,
    )


def make_miner(cfg: DictConfig) -> Miner | None:
    """Return the miner of `cfg`, or None; raises `UserError` for a class that is no miner."""
    return None if (miner := instantiate(cfg.mining)) is None else check_miner_class(miner)


def make_compression(cfg: DictConfig, embedder: Embedder) -> Compression | None:
    """Return the compression of `cfg`, if any; raises `UserError` if the embedder's vectors cannot have its sizes."""
    if (compression := instantiate(cfg.compression, _convert_="all")) is not None:
        compression.settings(embedder.dim)
    return compression


def make_validation(cfg: DictConfig, trainer: Trainer, engine: Engine) -> Validate | None:
    """Return the callback that scores the benchmark of `cfg.validation` during training; None without one.

    Raises:
        UserError: The settings are wrong, or there are several benchmarks.
    """
    if not cfg.validation:
        return None
    benchmarks = make_benchmarks(cfg, cfg.validation.benchmark, trainer)
    if len(benchmarks) != 1:
        raise UserError(
            f"validation takes one benchmark, got {len(benchmarks)}; choose one with benchmark@validation.benchmark=..."
        )
    settings = {key: value for key, value in plain(cfg.validation).items() if key != "benchmark"}
    return Validate(benchmarks[0], engine, Path(cfg.output_dir) / "best", **settings)


def make_benchmarks(cfg: DictConfig, chosen: DictConfig | None, trainer: Trainer) -> list[Benchmark]:
    """Return the benchmarks of a choice in `cfg`: one, several by name, or none; rank 0 checks their pictures."""
    check_count(cfg.report_queries)
    benchmarks = list_benchmarks(instantiate(chosen, _convert_="all"))
    for benchmark in benchmarks:
        if trainer.is_global_zero:
            check_pictures(benchmark.pictures, benchmark.roots)
        if "resolution" in overridden() and benchmark.resolution not in (None, cfg.resolution.policy):
            log.warning(
                "%s is evaluated at its published resolution, %s; set it to null for the chosen one",
                benchmark.name,
                benchmark.resolution,
            )
    return benchmarks


def make_embedder(cfg: DictConfig, trainer: Trainer, checkpoint: str | None = None) -> Embedder:
    """Return the model of `cfg` on the trainer's device.

    A checkpoint's prompt, resolution and pooling are taken, unless the command line or the experiment chooses others.

    Args:
        cfg: The configuration.
        trainer: Has the device.
        checkpoint: A folder to load in place of the checkpoint of `cfg`.
    """
    chosen, revision = chosen_groups(), None if checkpoint else cfg.checkpoint_revision
    checkpoint = checkpoint or cfg.checkpoint
    sources: dict[str, Any] = {"adapter": checkpoint, "adapter_revision": revision}
    if checkpoint and find_adapter(checkpoint, revision) is None:
        sources = {"path": checkpoint, "revision": revision}
    return instantiate(cfg.model, _partial_=True)(
        prompt=instantiate(cfg.prompt, _convert_="all") if "prompt" in chosen or not checkpoint else None,
        resolution=instantiate(cfg.resolution) if "resolution" in chosen or not checkpoint else None,
        pooling=instantiate(cfg.pooling) if "pooling" in chosen or not checkpoint else None,
        device=str(trainer.strategy.root_device),
        **sources,
    )


def make_search(cfg: DictConfig, trainer: Trainer) -> Search:
    """Return the search of `cfg`, on the trainer's device unless another is chosen."""
    device = trainer.strategy.root_device
    ours = str(device) if device.type in ("cpu", "cuda") else "cpu"  # it needs float64
    return instantiate(cfg.search, device=ours if cfg.search.device == "auto" else cfg.search.device)
