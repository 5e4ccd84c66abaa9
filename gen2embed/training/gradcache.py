"""Gradient caching: the gradient of one large batch, in the memory of one small chunk.

A contrastive loss couples all embeddings of a batch, but it depends on the parameters through the embeddings alone. So
(Gao et al., 2021, arXiv 2101.06983):

    1. embed every chunk without a graph, and remember the random state that each began with;
    2. compute the loss on all embeddings, and its gradient with respect to them;
    3. embed every chunk again, now with a graph and under the same random state, and back-propagate its rows of that
       gradient.

The sum of what step 3 accumulates is the gradient of the whole batch, exactly: the second pass is the first one again,
dropout included. A learned temperature, on which the loss depends by itself, is treated as one more embedding.

Where there is memory for the graphs of some chunks, step 1 keeps them, and step 3 has them at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

Chunk = TypeVar("Chunk")
RandomState = tuple[Tensor, dict[int, Tensor]]


def backward_cached(
    chunks: Sequence[Chunk],
    embed: Callable[[Chunk], Float[Tensor, "b d"]],
    loss: Callable[..., Float[Tensor, ""]],
    backward: Callable[[Tensor], object] = Tensor.backward,
    learned: Callable[[], Tensor] | None = None,
    kept: int = 0,
) -> Float[Tensor, ""]:
    """Accumulate the gradient of `loss(all embeddings)` into the parameters behind `embed`; returns the loss.

    chunks: what `embed` takes, in the order in which `loss` expects their rows.
    backward: how a scalar is back-propagated (Lightning's `manual_backward`).
    learned: what else the loss takes, as its second argument, and depends on parameters; None for nothing.
    kept: chunks whose graphs are kept, the first ones; the gradient is the same to the bit.
    """
    # 1. embeddings, but for `kept` chunks without a graph
    states: list[RandomState] = []
    embedded: list[Tensor] = []
    for at, chunk in enumerate(chunks):
        states.append(random_state())
        with torch.set_grad_enabled(at < kept):
            embedded.append(embed(chunk))
    with torch.no_grad():
        inputs = [torch.cat(embedded), *([learned()] if learned else [])]

    # 2. the loss, and its gradient with respect to the embeddings
    for tensor in inputs:
        tensor.requires_grad_()
    with torch.autocast(inputs[0].device.type, enabled=False):
        value = loss(*inputs)
    gradient, *others = torch.autograd.grad(value, inputs)

    # 3. each chunk with a graph, those without one again
    rows = gradient.split([len(part) for part in embedded])
    with unchanged_random_state():
        for at, (chunk, state, row) in enumerate(zip(chunks, states, rows, strict=True)):
            if at >= kept:
                set_random_state(state)
                embedded[at] = embed(chunk)
            backward((embedded[at] * row).sum())
            embedded[at] = row  # lets go of the graph
    if learned:
        backward(learned() * others[0])
    return value.detach()


def random_state() -> RandomState:
    """The generators' states: of the CPU, and of each CUDA device in use."""
    devices: Iterable[int] = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    return torch.get_rng_state(), {device: torch.cuda.get_rng_state(device) for device in devices}


def set_random_state(state: RandomState) -> None:
    cpu, cuda = state
    torch.set_rng_state(cpu)
    for device, its in cuda.items():
        torch.cuda.set_rng_state(its, device)


@contextmanager
def unchanged_random_state() -> Iterator[None]:
    """Afterwards the generators stand where they stood before, as after one plain pass."""
    before = random_state()
    try:
        yield
    finally:
        set_random_state(before)
