"""Gradient caching: the gradient of one large batch, in the memory of one small chunk.

A contrastive loss couples all embeddings of a batch, but it depends on the model through the embeddings alone. So
(Gao et al., 2021, arXiv 2101.06983):

    1. Embed every chunk without a graph, and remember the random state that each began with.
    2. Compute the loss of all embeddings, and its gradient with respect to them.
    3. Embed every chunk again, now with a graph and under the same random state, and back-propagate its rows of that
       gradient.

The sum of what step 3 accumulates is the gradient of the whole batch, exactly: the second pass repeats the first one,
dropout included. Parameters of the loss itself, such as a learned temperature, have their gradient from step 2.

For example, let the model be v_i = w x_i, with w = 3 and two chunks of one item each, x = (1, 2), and the loss v_1 v_2.
Step 1 finds v = (3, 6), and step 2 the gradient (6, 3). Step 3 adds 6 * 1 and 3 * 2 to the gradient of w: 12, the
derivative of the loss, which is 2 w^2.

Where memory has room for the graphs of some chunks, step 1 retains them, and step 3 need not embed these again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import Parameter

Chunk = TypeVar("Chunk")
RandomState = tuple[Tensor, dict[int, Tensor]]


def backward_learned(parameter: Parameter, gradient: Tensor) -> None:
    """Accumulate a gradient into a parameter, by back-propagating through it."""
    (parameter * gradient).sum().backward()


def backward_cached(
    chunks: Sequence[Chunk],
    embed: Callable[[Chunk], Float[Tensor, "b d"]],
    loss: Callable[[Float[Tensor, "r d"]], Float[Tensor, ""]],
    backward: Callable[[Tensor], object] = Tensor.backward,
    learned: Sequence[Parameter] = (),
    backward_learned: Callable[[Parameter, Tensor], object] = backward_learned,
    retained: int = 0,
) -> Float[Tensor, ""]:
    """Accumulate the gradient of `loss(all embeddings)` into the parameters behind `embed`, and into `learned`.

    Args:
        chunks: What `embed` takes, in the order in which `loss` expects their rows.
        embed: Returns the embeddings of a chunk.
        loss: Takes the embeddings of all chunks.
        backward: Back-propagates a scalar, such as Lightning's `manual_backward`.
        learned: The parameters of the loss.
        backward_learned: Accumulates a gradient into a parameter of the loss.
        retained: How many chunks, the first ones, have their graphs retained; the gradient is the same to the bit.

    Returns:
        The loss, without a graph.
    """
    # 1. Embeddings, with a graph for the retained chunks alone
    states: list[RandomState] = []
    embedded: list[Tensor] = []
    for index, chunk in enumerate(chunks):
        states.append(random_state())
        with torch.set_grad_enabled(index < retained):
            embedded.append(embed(chunk))

    # 2. The loss, and its gradient with respect to the embeddings and its own parameters
    with torch.no_grad():
        vectors = torch.cat(embedded)
    vectors.requires_grad_()
    with torch.autocast(vectors.device.type, enabled=False):
        value = loss(vectors)
    gradient, *learned_gradients = torch.autograd.grad(value, [vectors, *learned], allow_unused=True)
    assert gradient is not None

    # 3. Each chunk with a graph, embedded again unless it was retained
    chunk_gradients = gradient.split([len(rows) for rows in embedded])
    with unchanged_random_state():
        for index, (chunk, state, chunk_gradient) in enumerate(zip(chunks, states, chunk_gradients, strict=True)):
            if index >= retained:
                set_random_state(state)
                embedded[index] = embed(chunk)
            # d(sum of v * g) / dv = g, so this scalar continues the chain rule from the embeddings into the model
            backward((embedded[index] * chunk_gradient).sum())
            embedded[index] = chunk_gradient  # any tensor without a graph: the chunk's graph is freed
    for parameter, parameter_gradient in zip(learned, learned_gradients, strict=True):
        if parameter_gradient is not None:
            backward_learned(parameter, parameter_gradient)
    return value.detach()


def random_state() -> RandomState:
    """Return the states of the generators: of the CPU, and of each CUDA device in use."""
    devices: Iterable[int] = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    return torch.get_rng_state(), {device: torch.cuda.get_rng_state(device) for device in devices}


def set_random_state(state: RandomState) -> None:
    """Set the generators to what `random_state` returned."""
    cpu, cuda = state
    torch.set_rng_state(cpu)
    for device, device_state in cuda.items():
        torch.cuda.set_rng_state(device_state, device)


@contextmanager
def unchanged_random_state() -> Iterator[None]:
    """Restore the generators afterwards to where they stood before, as after one plain pass."""
    before = random_state()
    try:
        yield
    finally:
        set_random_state(before)
