"""What the speed benchmarks measure of ours: an encoding, and a cached step, of which nothing is kept for the next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from rivals import gradients
from torch import Tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from yardstick import TEMPERATURE

from gen2embed import Embedder, Item
from gen2embed.encoding.batch import ChunkLimit
from gen2embed.encoding.engine import Engine
from gen2embed.model.vision import FeatureCache
from gen2embed.training.datamodule import Collate, TrainingBatch
from gen2embed.training.losses import InfoNCE
from gen2embed.training.module import ContrastiveModule
from gen2embed.training.shortcuts import Shortcuts, resolve
from gen2embed.training.sync import OneRank
from gen2embed.types import Pair
from gen2embed.utils.choices import Role

ALL = 10**6  # chunks
Drawn = tuple[list[Item], Role]
Step = Callable[[Sequence[Pair]], Tensor]


def encode(embedder: Embedder, drawn: Drawn) -> Tensor:
    """Return the vectors; nothing is kept between two runs."""
    return Engine(store=None, shown=False).encode(replace(embedder, feature_cache=FeatureCache(2**30)), *drawn).vectors


def make_step(
    embedder: Embedder, keep: int, tokens: int | None = None
) -> tuple[Collate, Callable[[TrainingBatch], Tensor]]:
    """Return what makes a batch of pairs, and the step, which leaves its gradient in the trained parameters.

    Args:
        embedder: The embedder with its adapter.
        keep: The number of chunks whose graphs are kept from the first pass, in place of a second one.
        tokens: The tokens of a chunk; None is as many as the device runs well.
    """
    embedder = replace(embedder, feature_cache=FeatureCache(0))  # keeps no picture for the next step
    shortcuts, _ = resolve(Shortcuts(retain_graphs=keep), embedder, lockstep=False)
    plain = InfoNCE(TEMPERATURE, mask_identical=False)
    module = ContrastiveModule(embedder, plain, OneRank(), 0, AdamW, LambdaLR, shortcuts=shortcuts)
    module.manual_backward = Tensor.backward  # type: ignore[assignment]
    prepare = partial(embedder.prepare, limit=ChunkLimit(tokens or embedder.budget), share=shortcuts.deduplicate)
    return Collate(prepare), lambda batch: module.accumulate(batch)["loss"]


def step(embedder: Embedder, pairs: Sequence[Pair], keep: int) -> Tensor:
    """Accumulate the gradient of a batch, inputs included; return the loss."""
    prepare, step = make_step(embedder, keep)
    return step(prepare(pairs))


def seeded(step: Step, model: torch.nn.Module, pairs: Sequence[Pair]) -> dict[str, Tensor]:
    """Return the gradients that a step leaves, under one seed."""
    torch.manual_seed(0)
    step(pairs)
    return gradients(model)
