"""Pooling: from the hidden states of many samples to one vector for each.

A `Pooling` is one class and one yaml file; `LastToken` is the shipped one. It sees padded batches and packed rows in
one form: all tokens of a pass in one row, and `SampleTokens`, which say where each sample stands among them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Protocol, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gen2embed.utils.errors import UserError

LAST = "last_token"  # describes the default, in fingerprints of every version


@dataclass(frozen=True)
class SampleTokens:
    """Where n samples stand among the t tokens of a pass.

    Args:
        last: The index of each sample's last token.
        source: `attention_mask` (b, l) of a padded batch, t = b l, or `ends` (t,) of a packed row (see `packing`).
    """

    last: Int[Tensor, " n"]
    source: Int[Tensor, ...]

    @classmethod
    def padded(cls, attention_mask: Int[Tensor, "b l"]) -> SampleTokens:
        """Return those of a batch with a sample a row, wherever its padding stands."""
        rows, length = attention_mask.shape
        columns = torch.arange(length, device=attention_mask.device)
        last = (attention_mask * (columns + 1)).argmax(dim=1)
        return cls(torch.arange(rows, device=last.device) * length + last, attention_mask)

    @cached_property
    def mask(self) -> Bool[Tensor, "n t"]:
        """Which tokens are each sample's. Samples of a packed row share the tokens with which they begin alike."""
        if self.source.ndim == 2:
            return torch.block_diag(*self.source.bool()).bool()
        tokens = torch.arange(len(self.source), device=self.source.device)
        return (tokens <= self.last[:, None]) & (self.last[:, None] < self.source)


class Pooling(Protocol):
    """A frozen dataclass without weights; its class and its fields are part of an embedding's fingerprint."""

    def __call__(self, hidden: Float[Tensor, "t d"], samples: SampleTokens) -> Float[Tensor, "n d"]:
        """Return one vector for each sample, which need not be a unit vector; differentiable.

        Args:
            hidden: The hidden states of all tokens of a pass, after the final norm.
            samples: Which of them are each sample's.
        """


@dataclass(frozen=True)
class LastToken:
    """The hidden state of the last token, which alone has seen all of the others under causal attention."""

    def __call__(self, hidden: Float[Tensor, "t d"], samples: SampleTokens) -> Float[Tensor, "n d"]:
        """Return the hidden state of each sample's last token."""
        return hidden[samples.last]


def describe_pooling(pooling: Pooling) -> str | dict[str, Any]:
    """Return the class and the fields of a pooling, for fingerprints and cards; `LAST` for the default."""
    return LAST if pooling == LastToken() else target_of(pooling)


def target_of(pooling: Pooling) -> dict[str, Any]:
    """Return the constructor call of a pooling, as a yaml file has it."""
    cls = type(pooling)
    return {"_target_": f"{cls.__module__}.{cls.__qualname__}", **asdict(cast("Any", pooling))}


def pool(pooling: Pooling, hidden: Float[Tensor, "b l d"], samples: SampleTokens) -> Float[Tensor, "n d"]:
    """Return the unit vectors of samples, at least in single precision."""
    tokens = hidden.flatten(0, 1)
    pooled = pooling(tokens, samples)
    if pooled.shape != (wanted := (len(samples.last), tokens.shape[1])):
        raise UserError(
            f"{pooling} returned vectors of shape {tuple(pooled.shape)}; return {wanted}, one for each sample"
        )
    return torch.nn.functional.normalize(pooled.to(torch.promote_types(pooled.dtype, torch.float32)), dim=-1)
