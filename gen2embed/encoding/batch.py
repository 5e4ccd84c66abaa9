"""Prepared items: chunks, each for one pass of a model, and the pictures that they refer to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Self, TypeVar

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from gen2embed.types import Item
from gen2embed.utils.choices import ROLES, Role  # noqa: F401  (others take both, and the errors, from here)
from gen2embed.utils.errors import UserError, did_you_mean, first_line  # noqa: F401
from gen2embed.utils.memory import readable
from gen2embed.utils.workers import LARGER, room

Inputs = dict[str, Tensor]  # keyword arguments of a model's forward


@dataclass
class Chunk:
    """The inputs of one pass.

    Args:
        inputs: The model's inputs.
        rows: How many vectors come out.
        pictured: Whether its items have pictures; all have, or none has.
        pictures: The digests of the pictures that `inputs` refer to, in the order of their tokens.
    """

    inputs: Inputs
    rows: int
    pictured: bool
    pictures: tuple[str, ...] = ()


@dataclass
class Prepared:
    """Items that are ready for a model.

    Args:
        chunks: What to embed, one pass each.
        order: Indices (n,) into the rows of all chunks, in the order of the items; equal items may share a row.
        pictures: The vision tower's inputs of each distinct picture, by digest.
        needed: For the items that were truncated, by index, how many tokens they need.
    """

    chunks: list[Chunk]
    order: Tensor
    pictures: dict[str, Inputs]
    needed: dict[int, int] = field(default_factory=dict, kw_only=True)

    def pin_memory(self) -> Self:
        """Return a copy in pinned memory, which a GPU reads while it computes; the loader calls this."""
        chunks = [replace(chunk, inputs=_pinned(chunk.inputs)) for chunk in self.chunks]
        pictures = {digest: _pinned(inputs) for digest, inputs in self.pictures.items()}
        return replace(self, chunks=chunks, pictures=pictures)


Prepare = Callable[[Sequence[tuple[Item, Role]]], Prepared]


def to_device(inputs: Inputs, device: torch.device, dtype: torch.dtype) -> Inputs:
    """Return inputs on a device, floating-point ones in `dtype`; pinned memory is copied while the device computes."""
    return {
        name: tensor.to(device, dtype if tensor.is_floating_point() else None, non_blocking=True)
        for name, tensor in inputs.items()
    }


def _pinned(inputs: Inputs) -> Inputs:
    return {name: tensor.pin_memory() for name, tensor in inputs.items()}


@dataclass(frozen=True)
class ChunkLimit:
    """How large a chunk may be.

    Args:
        tokens: Tokens at most, unless a single sample is longer.
        rows: Samples at most; None is no limit.
    """

    tokens: int
    rows: int | None = None


Ready = TypeVar("Ready", bound=Prepared)


def to_shared_memory(prepared: Ready) -> Ready:
    """Move prepared items of a worker to shared memory; raises `UserError` if there is none left.

    The queue to the loader would do it as well, but in a thread whose error nobody sees: the loader would wait forever.
    """
    if get_worker_info() is not None:
        try:
            for tensor in tensors_of(prepared):
                tensor.share_memory_()
        except RuntimeError as error:
            where, free = room()
            raise UserError(
                f"a loader's worker got no shared memory ({first_line(error)}); {readable(free)} are free in {where}: "
                f"lower batch.prefetch or engine.prefetch, set batch.workers=0 or engine.workers=0, or {LARGER}"
            ) from None
    return prepared


def tensors_of(prepared: Prepared) -> Iterator[Tensor]:
    """Yield all tensors of prepared items."""
    inputs = [*(chunk.inputs for chunk in prepared.chunks), *prepared.pictures.values()]
    values = [*vars(prepared).values(), *(value for chunk in inputs for value in chunk.values())]
    yield from (value for value in values if isinstance(value, Tensor))
