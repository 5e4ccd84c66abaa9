"""Cache DoRA's weight norms, which peft computes in every forward pass, until a weight changes.

DoRA (arXiv 2402.09353) divides by ||W + s B A||, row by row, and section 4.3 treats that as a constant of the step. For
this norm alone, peft multiplies an identity matrix of the layer's width, 1.4 GiB for 18,944 inputs, by A and B.

    inference   A layer keeps its norm as long as W, A, B, the scaling and the precision stay the same. Training mode
                drops it, so that a validation between two steps computes the norms of the current weights.
    training    `cached_norms` keeps the norms within a step. Outside of it, a layer in training mode computes as peft.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.lora.dora import DoraLinearLayer
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

State = tuple[object, ...]  # what a norm was computed from
IN_STEP: State = ("step",)  # inside `cached_norms`, where no weight changes


class CachingDoraLayer(DoraLinearLayer):
    """peft's layer, with the same bits, that keeps its weight norms as long as they cannot have changed."""

    _norms: dict[str, tuple[State, Tensor]]  # by adapter
    _state: State | None  # of the forward pass that runs; None where nothing is kept
    _in_step: bool

    def forward(self, x: Tensor, **call: Any) -> Tensor:
        if self._in_step:
            self._state = IN_STEP
        elif self.training or torch.compiler.is_compiling():
            self._state = None
        else:
            weights = (call[name].weight for name in ("base_layer", "lora_A", "lora_B"))
            self._state = _state(tuple(weights), x.dtype, call["scaling"])
        return super().forward(x, **call)

    def get_lora_weight(self, **call: Any) -> Tensor:
        """Return B A, computed without an identity matrix; or, in its place, the stored norm that needs no B A."""
        name = call.get("adapter_name")
        if self._state is None or name is None:
            return super().get_lora_weight(**call)
        if (norm := self._stored(name)) is not None:
            return norm
        with torch.no_grad():  # the norm is a constant
            return call["lora_B"](call["lora_A"].weight.T.contiguous()).T

    def get_weight_norm(
        self, weight: Tensor, lora_weight: Tensor, scaling: float, adapter_name: str | None = None
    ) -> Tensor:
        """Return the norm of each row of W + s B A."""
        call = {"weight": weight, "lora_weight": lora_weight, "scaling": scaling, "adapter_name": adapter_name}
        if self._state is None or adapter_name is None:  # peft merges an adapter under no name
            return super().get_weight_norm(**call)
        if (norm := self._stored(adapter_name)) is None:
            norm = super().get_weight_norm(**call).detach()
            with torch.inference_mode(False):
                norm = norm.clone() if norm.is_inference() else norm  # a later pass may have a graph
            self._norms[adapter_name] = self._state, norm
        return norm

    def train(self, mode: bool = True) -> CachingDoraLayer:
        if mode:
            self._norms.clear()
        return super().train(mode)

    def _stored(self, adapter_name: str) -> Tensor | None:
        state, norm = self._norms.get(adapter_name, (None, None))
        return norm if state == self._state else None


def keep_norms(model: nn.Module) -> None:
    """Make the DoRA layers of `model` cache their norms, in place, as the module's docstring says."""
    for module in model.modules():
        if type(module) is DoraLinearLayer:
            module.__class__ = CachingDoraLayer
            vars(module).update(_norms={}, _state=None, _in_step=False)


@contextmanager
def cached_norms(model: nn.Module) -> Iterator[None]:
    """Make the DoRA layers of `model` keep the norms of their first pass; weights must not change meanwhile."""
    keep_norms(model)
    layers = [module for module in model.modules() if isinstance(module, CachingDoraLayer)]
    for layer in layers:
        layer._norms, layer._state, layer._in_step = {}, None, True
    try:
        yield
    finally:
        for layer in layers:
            layer._norms, layer._in_step = {}, False


def _state(tensors: tuple[Tensor, ...], dtype: torch.dtype, scaling: float) -> State | None:
    """Return what a norm depends on, cheap to compare: the memory of the weights, and how often it was changed.

    None for tensors that were created in inference mode, as PyTorch does not count their changes.
    """
    if any(tensor.is_inference() for tensor in tensors):
        return None
    weights = ((StorageWeakRef(tensor.untyped_storage()), tensor._version, tensor.dtype) for tensor in tensors)
    precision = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind := tensors[0].device.type) else None
    return *weights, dtype, precision, scaling
