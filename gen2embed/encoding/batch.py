"""Items made ready for a model: chunks, each for one pass, and the pictures that they refer to."""

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

Inputs = dict[str, Tensor]  # of a model, as a batch


@dataclass
class Chunk:
    """What a model embeds in one pass.

    rows: vectors that come out. pictured: whether its items have pictures, as all or none have.
    pictures: the digests of those that `inputs` refer to, in the order in which their tokens stand.
    """

    inputs: Inputs
    rows: int
    pictured: bool
    pictures: tuple[str, ...] = ()


@dataclass
class Prepared:
    """Items made ready for a model.

    order: everything[order] puts the chunks' rows in the order of the items; equal items may share a row.
    pictures: by digest, each distinct picture as the model's vision tower takes it.
    cut: by its number, the tokens that an item needs, of those that lost the end of their text at `max_length`.
    """

    chunks: list[Chunk]
    order: Tensor
    pictures: dict[str, Inputs]
    cut: dict[int, int] = field(default_factory=dict, kw_only=True)

    def pin_memory(self) -> Self:
        """For the loader: in memory that a GPU reads while it computes."""
        chunks = [replace(chunk, inputs=_pinned(chunk.inputs)) for chunk in self.chunks]
        pictures = {digest: _pinned(inputs) for digest, inputs in self.pictures.items()}
        return replace(self, chunks=chunks, pictures=pictures)


Prepare = Callable[[Sequence[tuple[Item, Role]]], Prepared]


def moved(inputs: Inputs, device: torch.device, dtype: torch.dtype) -> Inputs:
    """On a device, and what is floating-point in a model's type; pinned memory is copied while the device computes."""
    return {
        name: tensor.to(device, dtype if tensor.is_floating_point() else None, non_blocking=True)
        for name, tensor in inputs.items()
    }


def _pinned(inputs: Inputs) -> Inputs:
    return {name: tensor.pin_memory() for name, tensor in inputs.items()}


@dataclass(frozen=True)
class ChunkLimit:
    """How large a chunk may be. tokens: but for a single sample that is longer. rows: samples; None for no limit."""

    tokens: int
    rows: int | None = None


Ready = TypeVar("Ready", bound=Prepared)


def shared(prepared: Ready) -> Ready:
    """Move what a worker prepared to shared memory; raises `UserError` if there is none.

    The queue to the loader would do it as well, but in a thread whose error nobody sees: the loader waits for ever.
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
    values = [*vars(prepared).values(), *(value for its in inputs for value in its.values())]
    yield from (value for value in values if isinstance(value, Tensor))
