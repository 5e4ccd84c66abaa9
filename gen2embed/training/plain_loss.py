"""A loss of one's own: take a plain module as a loss, and try it before anything expensive runs."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import torch
from torch import Tensor, nn

from gen2embed.training.losses import ContrastiveLoss, ContrastiveTargets, unit
from gen2embed.utils.errors import UserError


class PlainLoss(ContrastiveLoss):
    """A module that takes queries, candidates and targets, and says nothing more about itself."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, queries: Tensor, candidates: Tensor, targets: ContrastiveTargets) -> Tensor:
        """Return what the module returns."""
        return self.module(queries, candidates, targets)


def contrastive_loss(module: Any) -> ContrastiveLoss:
    """Return the module as a `ContrastiveLoss`.

    Raises:
        UserError: If it is no `torch.nn.Module`, or its `forward` does not take queries, candidates and targets.
    """
    name = type(module).__name__
    if not isinstance(module, nn.Module):
        raise UserError(f"the loss {name} is not a torch.nn.Module; derive it from gen2embed.training.ContrastiveLoss")
    signature = inspect.signature(module.forward)
    try:
        signature.bind("queries", "candidates", "targets")
    except TypeError as error:
        raise UserError(
            f"the loss {name} has forward{signature}; it must take (queries, candidates, targets) and return a scalar"
        ) from error
    return module if isinstance(module, ContrastiveLoss) else PlainLoss(module)


def try_loss(loss: ContrastiveLoss, width: int) -> None:
    """Call a copy of the loss on two pairs and an explicit negative.

    Args:
        loss: The loss.
        width: The number of elements of the model's vectors.

    Raises:
        UserError: If it returns no scalar with a gradient for queries or candidates.
    """
    loss = copy.deepcopy(loss)  # which may count its calls, or keep what it has seen
    name = type(loss.module if isinstance(loss, PlainLoss) else loss).__name__
    queries = unit(torch.eye(2, width) + 0.5).requires_grad_()
    candidates = unit(torch.eye(3, width) + 0.4).requires_grad_()
    value = loss(queries, candidates, ContrastiveTargets(torch.arange(3), torch.arange(2)[:, None]))
    if not isinstance(value, Tensor) or value.ndim:
        shape = f"a tensor of shape {list(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise UserError(f"the loss {name} returned {shape}; return one scalar tensor, such as the mean over queries")
    gradients: tuple[Tensor | None, ...] = (None,)
    if value.requires_grad:
        gradients = torch.autograd.grad(value, (queries, candidates), allow_unused=True)
    if all(gradient is None for gradient in gradients):
        raise UserError(f"the loss {name} has no gradient for its queries and candidates; compute it from both")
