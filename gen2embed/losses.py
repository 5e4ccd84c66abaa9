"""Contrastive losses on embeddings: plain tensors, no model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gen2embed.types import UserError


@dataclass(frozen=True)
class InfoNCE:
    """InfoNCE over the candidates of a batch: each query against its own positive and everyone else's.

        loss = mean over i of  -log( exp(q_i . c_i / T) / sum over j of exp(q_i . c_j / T) )

    temperature: T; the paper's is 0.02 (arXiv 2508.00955, section 4).
    mask_identical: leave out of the sum the candidates that are the same as the query's positive: they are no
        negatives. False is the paper's plain loss.
    """

    temperature: float = 0.02
    mask_identical: bool = True

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise UserError(f"loss.temperature is above 0; got {self.temperature}")

    def __call__(
        self, queries: Float[Tensor, "n d"], candidates: Float[Tensor, "n d"], identical: Bool[Tensor, "n n"]
    ) -> Float[Tensor, ""]:
        """The loss of a batch whose row i is the pair (query i, candidate i).

        identical: [i, j] says that candidate j is the same item as candidate i.
        """
        logits = torch.einsum("nd,md->nm", queries, candidates) / self.temperature
        if self.mask_identical:
            own = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
            logits = logits.masked_fill(identical & ~own, -torch.inf)
        return torch.nn.functional.cross_entropy(logits, torch.arange(len(logits), device=logits.device))
