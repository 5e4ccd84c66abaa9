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
