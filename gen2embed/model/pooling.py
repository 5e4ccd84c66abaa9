"""Pooling: from the hidden states of a batch to one vector an item."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def last_token(hidden: Float[Tensor, "b l d"], attention_mask: Int[Tensor, "b l"]) -> Float[Tensor, "b d"]:
    """The hidden state of each row's last attended token, wherever the padding stands."""
    positions = torch.arange(attention_mask.shape[1], device=attention_mask.device)
    last = (attention_mask * (positions + 1)).argmax(dim=1)
    return hidden[torch.arange(hidden.shape[0], device=hidden.device), last]


def unit_vectors(pooled: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
    """At least in single precision."""
    return torch.nn.functional.normalize(pooled.to(torch.promote_types(pooled.dtype, torch.float32)), dim=-1)
