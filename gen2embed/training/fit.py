"""Fit an embedder: attach what is trained, measure what a step takes, let Lightning run, and save the adapter."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from lightning import Callback, Trainer, seed_everything
from torch import nn

from gen2embed.encoding.batch import ChunkLimit
from gen2embed.model.adapter import save
from gen2embed.model.embedder import Embedder
from gen2embed.outputs.paths import replace_folder
from gen2embed.training.batches import RankBatchSampler
from gen2embed.training.callbacks import CheckRanksAgree, CountWithoutNegatives, Validate
from gen2embed.training.datamodule import (
    Collate,
    PairDataModule,
    largest_batch,
    several_positives,
    warn_about_positives,
)
from gen2embed.training.memory import StepMemory
from gen2embed.training.module import ContrastiveModule
from gen2embed.training.recipe import Recipe
from gen2embed.training.resume import Resume
from gen2embed.training.shortcuts import (
    Sampled,
    Shortcuts,
    graphs_to_retain,
    predict_step,
    resolve,
    sample_chunks,
)
from gen2embed.training.strategies import sync_of
from gen2embed.training.zero import Zero
from gen2embed.types import Pair
from gen2embed.utils.log import log
from gen2embed.utils.workers import explained

SAMPLED = 32  # pairs whose chunks are measured before training


@dataclass(frozen=True)
class Fit:
    """A training that is ready to begin, and what was measured for it.

    Args:
        embedder: The embedder with its adapter, for use when the training is done.
        module: Takes the steps.
        data: Serves this rank's batches.
        limit: The largest chunk.
        sampled: The memory of some pairs' chunks.
        memory: The memory that a step takes on a rank.
        loaders: How many batches the loaders hold, in words.
        shortcuts: Whether each shortcut is taken, and why, in words.
    """

    embedder: Embedder
    module: ContrastiveModule
    data: PairDataModule
    limit: ChunkLimit
    sampled: Sampled
    memory: StepMemory
    loaders: str
    shortcuts: Mapping[str, str]

    def run(self, trainer: Trainer, resume: Resume, validation: Validate | None) -> Embedder:
        """Train to the last step; returns the embedder in evaluation mode, on the trainer's device.

        Args:
            trainer: Runs the steps.
            resume: Knows the checkpoint to go on from, if there is one.
            validation: Scores the embedder on the way.
        """
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        callbacks += [CheckRanksAgree(resume.inputs), CountWithoutNegatives()]
        if validation is not None:
            callbacks.insert(0, validation)  # a checkpoint of the same step holds its scores
        with explained():
            trainer.fit(self.module, self.data, ckpt_path=resume.checkpoint)
        self.module.eval().to(trainer.strategy.root_device)  # Lightning leaves it on the CPU
        return self.embedder


def prepare_fit(
    trainer: Trainer, recipe: Recipe, embedder: Embedder, pairs: Sequence[Pair], sampler: RankBatchSampler
) -> Fit:
    """Attach what is trained to the embedder, choose the shortcuts, and measure what a step takes.

    Args:
        trainer: Will run the steps.
        recipe: How to train.
        embedder: The embedder, whose base model is changed in place.
        pairs: The training rows.
        sampler: This rank's batches of the rows.

    Raises:
        UserError: If the loaders' batches do not fit into shared memory.
    """
    assert recipe.adapter is not None
    batch, sync = recipe.batch, sync_of(trainer.strategy)
    if trainer.is_global_zero:
        warn_about_positives(sampler.plan, pairs)

    seed_everything(recipe.seed, workers=True, verbose=False)
    embedder = replace(embedder, backbone=recipe.adapter.attach(embedder.backbone))
    if batch.gradient_checkpointing:
        embedder.backbone.full.activation_checkpointing_enable({"use_reentrant": False})
    trained = replace(embedder, packing=False) if sync.lockstep else embedder
    shortcuts, reasons = resolve(recipe.shortcuts, trained, lockstep=sync.lockstep)

    limit = ChunkLimit(batch.chunk_tokens or embedder.budget, batch.chunk)
    prepare = partial(trained.prepare, limit=limit, share=shortcuts.deduplicate)
    collate = Collate(prepare, several_positives(pairs) if recipe.loss.needs_known_positives else {})
    size = largest_batch(pairs, sampler, collate) if batch.ahead.processes else 0
    batch.ahead.check(size, trainer.num_devices)

    precision = as_in_training(trainer, embedder.backbone.full)
    rows = [pairs[row] for row in next(iter(sampler))[:SAMPLED]]
    sampled = sample_chunks(trained, collate, rows, shortcuts, precision)
    shortcuts, memory, reason = _retain_graphs(trainer, trained, sampler, sampled, shortcuts)
    optim = recipe.optimization
    module = ContrastiveModule(
        trained, recipe.loss, sync, recipe.seed, optim.optimizer, optim.scheduler, optim.gradient_clip, shortcuts
    )
    data = PairDataModule(pairs, sampler, collate, batch.ahead)
    loaders = batch.ahead.describe(size)
    return Fit(embedder, module, data, limit, sampled, memory, loaders, {**reasons, "retain_graphs": reason})


def as_in_training(trainer: Trainer, model: nn.Module) -> Callable[[], AbstractContextManager[object]]:
    """Convert the weights as the trainer does before its first step, and return the context that it runs a step in.

    Args:
        trainer: Has the precision.
        model: The model, whose weights are converted in place.
    """
    plugin = trainer.precision_plugin
    if plugin.precision == "bf16-mixed":  # DeepSpeed's plugin too, which leaves autocast to its engine
        kind = trainer.strategy.root_device.type
        return partial(torch.autocast, kind, dtype=torch.bfloat16, cache_enabled=False)
    if plugin.precision != "32-true":  # 32-true leaves the weights as they were loaded
        plugin.convert_module(model)
    return plugin.train_step_context


def _retain_graphs(
    trainer: Trainer, embedder: Embedder, sampler: RankBatchSampler, sampled: Sampled, shortcuts: Shortcuts
) -> tuple[Shortcuts, StepMemory, str]:
    """Return the shortcuts with a number of graphs that fits into memory, what a step then takes, and why."""
    own = sampler.plan.pairs // sampler.count
    predict = partial(
        predict_step,
        embedder,
        sampled,
        own,
        steps=trainer.max_steps,
        ranks=sampler.count,
        zero=trainer.strategy.stage if isinstance(trainer.strategy, Zero) else 0,
    )
    device = embedder.backbone.device
    processes = trainer.num_devices if device.type == "cpu" else 1  # that share the device's memory
    graphs, reason = graphs_to_retain(shortcuts.retain_graphs, predict(), sampled, device, processes)
    chunks = math.ceil(sampled.chunks * sampler.plan.pairs / sampler.count / sampled.pairs)
    return replace(shortcuts, retain_graphs=graphs), predict(graphs=min(graphs, chunks)), reason


def save_adapter(
    folder: Path, embedder: Embedder, validation: Validate | None, load: Callable[[str], Embedder]
) -> Embedder:
    """Save the run's adapter, that of the last step or of the best; returns the embedder that has it.

    Args:
        folder: The folder of the run; an adapter of an earlier start is replaced.
        embedder: The embedder after the last step.
        validation: Knows the best step; None keeps the last.
        load: Returns the embedder with the adapter of a folder.
    """
    if validation is not None and validation.keep == "best" and validation.best:
        log.info("the adapter is that of step %d, the best of the validation", validation.best["step"])
        copy = partial(shutil.copytree, validation.folder, dirs_exist_ok=True)
        replace_folder(folder / "adapter", copy)
        return load(str(folder / "adapter"))
    return replace_folder(folder / "adapter", partial(save, embedder))
