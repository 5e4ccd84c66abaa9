"""DoRA's weight norm once a step: it changes with the weights, and peft works it out in every forward pass.

DoRA (arXiv 2402.09353) divides by ||W + s B A||, row by row, and section 4.3 treats that as a constant of the step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from peft.tuners.lora.dora import DoraLinearLayer
from torch import Tensor, nn


@contextmanager
def norms_once(model: nn.Module) -> Iterator[None]:
    """Inside, the DoRA layers of `model` keep the norm of their first pass; weights must not change meanwhile."""
    layers = [module for module in model.modules() if type(module) is DoraLinearLayer]
    for layer in layers:
        norms: dict[str, Tensor] = {}
        layer.get_lora_weight = partial(_product, layer, norms)
        layer.get_weight_norm = partial(_norm, layer, norms)
    try:
        yield
    finally:
        for layer in layers:
            del layer.get_lora_weight, layer.get_weight_norm


def _product(layer: DoraLinearLayer, norms: Mapping[str, Tensor], **call: Any) -> Tensor:
    """B A, which only the norm is made of."""
    if call["adapter_name"] in norms:
        return norms[call["adapter_name"]]
    with torch.no_grad():
        return DoraLinearLayer.get_lora_weight(layer, **call)


def _norm(layer: DoraLinearLayer, norms: dict[str, Tensor], **call: Any) -> Tensor:
    name = call["adapter_name"]
    if name not in norms:
        norms[name] = DoraLinearLayer.get_weight_norm(layer, **call).detach()
    return norms[name]
