"""Ranks that train together: one global batch, one gradient.

Every rank embeds its own pairs. The loss couples all of them, but it depends on a rank's parameters through the rank's
own embeddings alone. So each rank

    1. gathers the embeddings of all ranks, of which only its own carry a gradient;
    2. computes the loss of the whole global batch, and back-propagates it into its own copy of the model;
    3. adds up the gradients of all ranks: the sum is the gradient of the global batch, exactly, on any number of ranks.

Nothing is averaged, and nothing is reduced while the chunks are back-propagated.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn import Parameter

from gen2embed.encoding.batch import Prepare
from gen2embed.training.datamodule import TrainingBatch


class Sync(Protocol):
    """What a training step asks of the other ranks.

    factor: what a rank multiplies a scalar by before it back-propagates it, where the reduction takes a mean.
    lockstep: ranks share weights, so that all run the same modules in the same order.
    """

    factor: float
    lockstep: bool

    def gather(self, own: Shaped[Tensor, "n ..."]) -> Shaped[Tensor, "m ..."]:
        """The rows of all ranks, rank by rank; the own ones are the tensor itself, in the graph."""

    def gather_texts(self, own: list[str]) -> list[str]:
        """The texts of all ranks, rank by rank."""

    @contextmanager
    def reduce_gradients(self, parameters: Iterable[Parameter]) -> Iterator[None]:
        """What this rank accumulates inside, from no gradient, is the sum over all ranks afterwards."""

    def scale_for_sum(self, value: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """The value, which every rank has; its gradient is a rank's part, so that all add up to the whole."""

    def pad_chunks(self, batch: TrainingBatch, prepare: Prepare) -> TrainingBatch:
        """The batch in chunks that all ranks can run side by side."""

    def step(self, optimizer: Any, parameters: Iterable[Parameter], largest: float | None) -> Float[Tensor, ""]:
        """Bound the norm of the gradient, unless `largest` is None, step and forget it; returns what the norm was."""

    @contextmanager
    def gather_parameters(self, parameters: Iterable[Parameter]) -> Iterator[None]:
        """Inside, every rank can read all of the parameters; all ranks enter together."""

    def seed(self, seed: int, step: int) -> None:
        """Start this rank's own random stream of a step."""


class OneRank:
    """A single process: there is nothing to wait for."""

    factor = 1.0
    lockstep = False

    def gather(self, own: Tensor) -> Tensor:
        return own

    def gather_texts(self, own: list[str]) -> list[str]:
        return own

    @contextmanager
    def reduce_gradients(self, parameters: Iterable[Parameter]) -> Iterator[None]:
        yield

    def scale_for_sum(self, value: Tensor) -> Tensor:
        return value

    def pad_chunks(self, batch: TrainingBatch, prepare: Prepare) -> TrainingBatch:
        return batch

    def step(self, optimizer: Any, parameters: Iterable[Parameter], largest: float | None) -> Tensor:
        norm = torch.nn.utils.clip_grad_norm_(parameters, math.inf if largest is None else largest)
        optimizer.step()
        optimizer.zero_grad()
        return norm

    @contextmanager
    def gather_parameters(self, parameters: Iterable[Parameter]) -> Iterator[None]:
        yield

    def seed(self, seed: int, step: int) -> None:
        _seed(seed, step, 0)


class Replicas(OneRank):
    """Ranks that each hold the whole model, over torch's process group."""

    def gather(self, own: Tensor) -> Tensor:
        size = torch.tensor([len(own)], device=own.device)
        sizes = torch.cat(_all_gather(size)).tolist()
        if not any(sizes):
            return own
        padded = own.new_zeros(max(sizes), *own.shape[1:])
        padded[: len(own)] = own.detach()
        parts = [part[:size] for part, size in zip(_all_gather(padded), sizes, strict=True)]
        parts[dist.get_rank()] = own
        return torch.cat(parts)

    def gather_texts(self, own: list[str]) -> list[str]:
        everyone: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(everyone, own)
        return list(itertools.chain.from_iterable(everyone))

    @contextmanager
    def reduce_gradients(self, parameters: Iterable[Parameter]) -> Iterator[None]:
        yield
        trained = list(parameters)
        present = trained[0].new_tensor([p.grad is not None for p in trained])
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
        flat = torch.cat([present, *(gradient.flatten() for gradient in gradients)])
        dist.all_reduce(flat)
        present, *sums = flat.split([len(trained), *(p.numel() for p in trained)])
        for parameter, anywhere, total in zip(trained, present.tolist(), sums, strict=True):
            # an optimiser decays a weight whose gradient is zero, and leaves one alone that has none
            parameter.grad = total.view_as(parameter).to(parameter.dtype) if anywhere else None

    def scale_for_sum(self, value: Tensor) -> Tensor:
        part = value / dist.get_world_size()
        return part + (value - part).detach()

    def seed(self, seed: int, step: int) -> None:
        _seed(seed, step, dist.get_rank())


def _all_gather(tensor: Tensor) -> list[Tensor]:
    parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, tensor)
    return parts


def _seed(*key: int) -> None:
    torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0]))
