"""Losses on unit vectors, to be minimised. They see no model, and are the same under gradient caching and on ranks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from gen2embed.types import UserError

LARGEST_SCALE = 100.0  # of a learned 1 / T, as in CLIP (arXiv 2103.00020, section 2.5)


class InfoNCE(nn.Module):
    """InfoNCE over the candidates of a batch: each query against its own positive and everyone else's.

        loss = mean over i of  -log( exp(q_i . c_i / T) / sum over j of exp(q_i . c_j / T) )

    temperature: T; the paper's is 0.02 (arXiv 2508.00955, section 4).
    learn_temperature: train log(1 / T) from there, and bound 1 / T by 100, as CLIP does (arXiv 2103.00020).

    What is left out of the sum over j, as it is no negative of query i:

    mask_identical: candidates that are the same item as its positive. False is the paper's plain loss.
    mask_known: candidates that another training row pairs with the same query.
    mask_margin: candidates that the model finds more similar to it than its positive by so much, as in Qwen3 Embedding
        (arXiv 2506.05176, section 3), where it is 0.1; None masks none.

    dims: the loss is the mean of that of the first d elements, as unit vectors, for each d, so that vectors can be cut
        (Matryoshka representations, arXiv 2205.13147); None takes the whole vectors alone.
    """

    def __init__(
        self,
        temperature: float = 0.02,
        mask_identical: bool = True,
        mask_known: bool = False,
        mask_margin: float | None = None,
        dims: Sequence[int] | None = None,
        learn_temperature: bool = False,
    ) -> None:
        super().__init__()
        if temperature <= 0:
            raise UserError(f"loss.temperature is above 0; got {temperature}")
        if dims is not None and (not dims or min(dims) < 1):
            raise UserError(f"loss.dims are numbers of at least 1, or null for whole vectors; got {list(dims)}")
        log_scale = torch.tensor([-math.log(temperature)])  # one element: DeepSpeed takes no scalars
        self.log_scale = nn.Parameter(log_scale) if learn_temperature else None
        self.temperature, self.dims = temperature, dims
        self.mask_identical, self.mask_known, self.mask_margin = mask_identical, mask_known, mask_margin

    def scale(self) -> Float[Tensor, ""]:
        """1 / T: what the loss depends on beside embeddings."""
        if self.log_scale is None:
            return torch.tensor(1 / self.temperature, dtype=torch.float64)
        return self.log_scale.exp().clamp(max=LARGEST_SCALE).squeeze()

    def forward(
        self,
        queries: Float[Tensor, "n d"],
        candidates: Float[Tensor, "m d"],
        identical: Bool[Tensor, "n m"],
        known: Bool[Tensor, "n m"],
        scale: Float[Tensor, ""] | None = None,
    ) -> Float[Tensor, ""]:
        """The loss of n queries. Candidate i is the positive of query i; those after the n-th are nobody's.

        identical: [i, j] says that candidate j is the same item as candidate i.
        known: [i, j] says that some training row pairs query i with candidate j.
        scale: 1 / T; None is `scale()`.
        """
        scale = self.scale() if scale is None else scale
        width = queries.shape[1]
        if self.dims and max(self.dims) > width:
            raise UserError(f"loss.dims={list(self.dims)} go beyond the model's vectors of {width} elements")
        losses = []
        for dim in self.dims or (width,):
            sides = (queries, candidates) if dim == width else (unit(side[:, :dim]) for side in (queries, candidates))
            similarity = torch.einsum("nd,md->nm", *sides)
            logits = (similarity * scale).masked_fill(self._no_negatives(similarity, identical, known), -torch.inf)
            losses.append(nn.functional.cross_entropy(logits, torch.arange(len(logits), device=logits.device)))
        return torch.stack(losses).mean()

    def _no_negatives(
        self, similarity: Float[Tensor, "n m"], identical: Bool[Tensor, "n m"], known: Bool[Tensor, "n m"]
    ) -> Bool[Tensor, "n m"]:
        """The candidates that are left out; a query's own positive never is."""
        out = torch.zeros_like(identical)
        if self.mask_identical:
            out |= identical
        if self.mask_known:
            out |= known
        if self.mask_margin is not None:
            out |= similarity > similarity.diagonal()[:, None] + self.mask_margin
        return out.fill_diagonal_(False)


def unit(vectors: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    return nn.functional.normalize(vectors, dim=-1)
