"""Ranks that train together: one global batch, one gradient.

Every rank embeds its own pairs. The loss couples the pairs of all ranks, but it depends on a rank's copy of the model
through that rank's embeddings alone. So each rank

    1. gathers the embeddings of all ranks, of which only its own carry a gradient;
    2. computes the loss of the global batch, and back-propagates it into its own copy of the model;
    3. adds up the gradients of all ranks. The sum is exactly the gradient of the global batch, for any number of ranks.

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
    """How a training step works with the other ranks. Every rank calls each method, in the same order.

    Attributes:
        factor: The number that a rank multiplies a scalar by before it back-propagates it: that of the ranks where the
            reduction takes a mean, else 1.
        lockstep: Whether ranks divide the weights, so that all must run the same modules in the same order.
    """

    factor: float
    lockstep: bool

    def gather(self, own: Shaped[Tensor, "n ..."]) -> Shaped[Tensor, "m ..."]:
        """Return the rows of all ranks, rank by rank; this rank's part of them is `own`, with its graph."""

    def gather_texts(self, own: list[str]) -> list[str]:
        """Return the texts of all ranks, rank by rank."""

    @contextmanager
    def reduce_gradients(self, parameters: Iterable[Parameter]) -> Iterator[None]:
        """Replace, when the context ends, the gradients that were accumulated in it by their sum over all ranks.

        The parameters have no gradient when it begins.
        """

    def scale_for_sum(self, value: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """Return a value that is the same on every rank, with its gradient divided by the number of ranks.

        The sum that `reduce_gradients` takes then counts it once.
        """

    def pad_chunks(self, batch: TrainingBatch, prepare: Prepare) -> TrainingBatch:
        """Return the batch in chunks that all ranks can run in lockstep, if they must.

        Args:
            batch: This rank's batch.
            prepare: Makes chunks of items.
        """

    def step(self, optimizer: Any, parameters: Iterable[Parameter], largest: float | None) -> Float[Tensor, ""]:
        """Clip the norm of the gradient, step the optimiser, and remove the gradient.

        Args:
            optimizer: The optimiser to step.
            parameters: The parameters that it steps.
            largest: The norm that the gradient is clipped to; None does not clip.

        Returns:
            The norm before it was clipped.
        """

    @contextmanager
    def gather_parameters(self, parameters: Iterable[Parameter]) -> Iterator[None]:
        """Make the parameters complete on every rank inside the context, where they are divided among the ranks."""

    def seed(self, seed: int, step: int) -> None:
        """Begin this rank's own random stream of a step."""


class OneRank:
    """A single process, which waits for no other."""

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
    """Ranks that each hold a complete copy of the model, connected by torch's process group."""

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
        texts: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(texts, own)
        return list(itertools.chain.from_iterable(texts))

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
