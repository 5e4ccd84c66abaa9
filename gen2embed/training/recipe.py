"""How a model is trained: what, by which loss, in which batches, with which optimiser. All of it is checked when it is
built, which needs no model: training builds its recipe before anything expensive runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from gen2embed.model.backbone import Backbone
from gen2embed.model.embedder import Embedder
from gen2embed.training.losses import ContrastiveLoss
from gen2embed.training.plain_loss import try_loss
from gen2embed.training.shortcuts import Shortcuts
from gen2embed.utils.errors import UserError, first_line
from gen2embed.utils.workers import Prefetch


class Adapter(Protocol):
    """A choice of what is trained."""

    def check(self, backbone: Backbone) -> None:
        """Raise `UserError` if `attach` cannot take the backbone; this changes nothing."""

    def attach(self, backbone: Backbone) -> Backbone:
        """Return the backbone with the parameters to train, and no others, requiring a gradient."""


@dataclass(frozen=True)
class BatchSettings:
    """The group `batch` of conf/train.yaml, which explains each setting."""

    pairs: int
    chunk_tokens: int | None = None
    chunk: int | None = None
    mixed: bool = True
    weights: Mapping[str, float] | None = None
    temperature: float | None = None
    distinct_positives: bool = False
    workers: int = 0
    prefetch: int | None = None
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        """Raise `UserError` for values that no data could make right."""
        for name, size in (("chunk", self.chunk), ("chunk_tokens", self.chunk_tokens)):
            if size is not None and size < 1:
                raise UserError(f"batch.{name} is at least 1, or null; got {size}")
        if self.temperature is not None and self.temperature <= 0:
            raise UserError(f"batch.temperature is above 0; got {self.temperature:g}")
        if self.temperature is not None and self.weights is not None:
            raise UserError("batch.weights and batch.temperature both say how often subsets come; set one to null")
        Prefetch(self.workers, self.prefetch)

    @property
    def ahead(self) -> Prefetch:
        """How many batches worker processes prepare ahead."""
        return Prefetch(self.workers, self.prefetch)


@dataclass(frozen=True)
class Optimization:
    """The group `optim`: how the weights move.

    Args:
        optimizer: Takes the parameters.
        scheduler: Takes the optimiser and `num_training_steps`; it steps once a batch.
        gradient_clip: The largest norm of the gradient; None does not clip.
    """

    optimizer: Callable[..., Optimizer]
    scheduler: Callable[..., LRScheduler]
    gradient_clip: float | None = 1.0

    def __post_init__(self) -> None:
        """Raise `UserError` for a bound that lets nothing move."""
        if self.gradient_clip is not None and not self.gradient_clip > 0:
            raise UserError(f"optim.gradient_clip is above 0, or null not to clip; got {self.gradient_clip}")

    def check(self, steps: int) -> None:
        """Try the optimiser and its schedule on one small weight.

        Args:
            steps: The number of steps of the training.

        Raises:
            UserError: If one of them does not take its settings.
        """
        weight = nn.Parameter(torch.zeros(2, 2))  # a matrix, since some optimisers, such as Muon, take nothing else
        try:
            optimizer = self.optimizer([weight])
        except (TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"optim.optimizer cannot be built: {first_line(error)}; change its settings") from error
        try:
            self.scheduler(optimizer, num_training_steps=steps)
        except (TypeError, ValueError) as error:
            raise UserError(
                f"optim.scheduler cannot be built: {first_line(error)}; it takes an optimiser and num_training_steps, "
                "as get_... of transformers.optimization do"
            ) from error


@dataclass(frozen=True)
class Recipe:
    """The parts of a training that need no model.

    Args:
        adapter: Attaches what is trained; None trains nothing.
        loss: The loss of a global batch.
        optimization: How the weights move.
        shortcuts: The shortcuts to take where they leave the gradient as it is.
        batch: How pairs become batches, and batches chunks.
        seed: The seed of all random numbers.
    """

    adapter: Adapter | None
    loss: ContrastiveLoss
    optimization: Optimization
    shortcuts: Shortcuts
    batch: BatchSettings
    seed: int = 0

    def check(self, embedder: Embedder) -> None:
        """Raise `UserError` if the adapter or the loss does not fit the model, before anything is done with it."""
        if self.adapter is not None:
            self.adapter.check(embedder.backbone)
        try_loss(self.loss, embedder.dim)
