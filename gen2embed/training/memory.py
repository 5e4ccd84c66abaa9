"""How much memory training takes: the peak of a step, by part.

`predict` adds the parts up. They follow from the configuration and the batch, except for the chunk: `measure_chunk`
runs one forward and backward and counts the bytes of its tensors. Tensors may be on any device, so that a model on
PyTorch's meta device, which has no weights, is counted like the one that is trained.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

MOMENTS = 2  # of AdamW, for every trained parameter
VECTORS = 3  # copies of a batch's embeddings in the second pass: of the chunks, of the loss, and their gradient


@dataclass(frozen=True)
class ChunkMemory:
    """Bytes of one chunk: what its graph holds for the backward pass, and the peak of both passes."""

    graph: int
    peak: int


@dataclass(frozen=True)
class StepMemory:
    """Bytes that a rank needs at the peak of a training step, by part.

    Args:
        weights: All parameters, frozen ones included.
        optimizer: The optimiser's state.
        gradients: The gradients of the trained parameters.
        features: Vision features of the pictures of the batch.
        embeddings: The embeddings of the batch, and their gradient.
        graphs: The graphs that are retained from the first pass, but one.
        workspace: What the largest chunk takes, forward and backward, or another stage that takes more.
    """

    weights: int
    optimizer: int
    gradients: int
    features: int
    embeddings: int
    graphs: int
    workspace: int

    @property
    def total(self) -> int:
        return sum(self.parts.values())

    @property
    def parts(self) -> dict[str, int]:
        return {part.name: getattr(self, part.name) for part in fields(self)}


def predict(
    parameters: Iterable[nn.Parameter],
    chunks: Sequence[ChunkMemory],
    *,
    vectors: int,
    features: int = 0,
    others: int = 0,
    graphs: int = 0,
    ranks: int = 1,
    zero: int = 0,
) -> StepMemory:
    """Return the memory that a rank needs from the second step on.

    Args:
        parameters: The parameters of the whole model, with `requires_grad` as in training, on any device, also meta.
        chunks: The largest one of each kind, as `measure_chunk` counts it.
        vectors: The bytes of the embeddings of a batch.
        features: The bytes of the vision features of the rank's pictures, if they are cached; else 0.
        others: The most bytes that are held before there is a graph, by the vision tower or for DoRA's norms.
        graphs: The number of chunks whose graphs are retained from the first pass.
        ranks: The number of ranks that train together.
        zero: The stage of DeepSpeed's ZeRO (arXiv 1910.02054, section 5): 1 divides the optimiser's state among the
            ranks, 2 also the gradients, 3 also the weights; 0 divides nothing.
    """
    parameters = list(parameters)
    weights, gradients = (sum(map(_bytes, group)) for group in (parameters, filter(_trained, parameters)))
    optimizer = MOMENTS * gradients
    if zero:  # it steps on float32 copies, whatever is trained
        optimizer = (MOMENTS + 1) * torch.float32.itemsize * sum(each.numel() for each in filter(_trained, parameters))
    weights, gradients, optimizer = (
        size // ranks if zero >= stage else size for size, stage in ((weights, 3), (gradients, 2), (optimizer, 1))
    )
    peak, graph = (max(getattr(chunk, name) for chunk in chunks) for name in ("peak", "graph"))
    embeddings, retained = VECTORS * vectors, max(0, graphs - 1) * graph
    if ranks > 1 and not zero:
        others = max(others, 2 * gradients)  # while they are added up
    workspace = max(peak, others - gradients - embeddings - retained)
    return StepMemory(weights, optimizer, gradients, features, embeddings, retained, workspace)


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _trained(parameter: Tensor) -> bool:
    return parameter.requires_grad


def measure_chunk(embed: Callable[[], Tensor], parameters: Iterable[nn.Parameter]) -> ChunkMemory:
    """Return the memory that `embed` and its backward pass hold, beyond what was there before.

    The gradient of a parameter is dropped as soon as it is complete, so that this never holds more than a step.

    Args:
        embed: Returns the embeddings of a chunk.
        parameters: The parameters of the model.
    """
    hooks = [parameter.register_post_accumulate_grad_hook(_drop) for parameter in parameters if parameter.requires_grad]
    try:
        with torch.enable_grad(), LiveBytes() as live:
            vectors = embed()
            graph = live.now
            if vectors.requires_grad:
                vectors.sum().backward()
    finally:
        for hook in hooks:
            hook.remove()
    return ChunkMemory(graph, live.peak)


def _drop(parameter: Tensor) -> None:
    parameter.grad = None


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the tensors that are created inside the context: those alive `now`, and their `peak`."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in _tensors((args, kwargs)):
            self._add(tensor, size=0)  # it was there before
        out = func(*args, **(kwargs or {}))
        for tensor in _tensors(out):
            self._add(tensor, size=tensor.untyped_storage().nbytes())
        self.peak = max(self.peak, self.now)
        return out

    def _add(self, tensor: Tensor, size: int) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return

        def forget(_: object) -> None:
            del self._known[key]
            self.now -= size

        self._known[key] = weakref.ref(storage, forget)
        self.now += size


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
