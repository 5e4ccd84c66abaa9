"""Losses on unit vectors, to be minimised. They see no model, and are the same under gradient caching and on ranks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gen2embed.utils.errors import UserError

LARGEST_SCALE = 100.0  # of a learned 1 / T, as in CLIP (arXiv 2103.00020, section 2.5)
BLOCK = 2**18  # similarities at a time; those of a whole batch would grow with its square


@dataclass(frozen=True)
class ContrastiveTargets:
    """Which of m candidates answer which of n queries, by numbers that are equal for the same items.

    candidates: of each; candidate i is the positive of query i, those after the n-th are nobody's.
    known: of each query, what training rows pair with it, its own positive among them.
    """

    candidates: Int[Tensor, " m"]
    known: Int[Tensor, "n k"]

    def identical(self, rows: slice) -> Bool[Tensor, "b m"]:
        """Of some queries, the candidates that are the same item as the positive."""
        return self.candidates[rows, None] == self.candidates

    def paired(self, rows: slice) -> Bool[Tensor, "b m"]:
        """Of some queries, the candidates that some training row pairs with it."""
        found = self.known[rows, :1] == self.candidates
        for column in self.known[rows, 1:].T:
            found |= column[:, None] == self.candidates
        return found


def blocks(queries: int, candidates: int) -> Iterator[slice]:
    """All queries, as many at a time as make a block of similarities."""
    size = max(1, BLOCK // candidates)
    for start in range(0, queries, size):
        yield slice(start, min(start + size, queries))


class InfoNCE(nn.Module):
    """InfoNCE over the candidates of a batch: each query against its own positive and everyone else's.

        loss = mean over i of  -log( exp(q_i . c_i / T) / sum over j of exp(q_i . c_j / T) )

    temperature: T; the paper's is 0.02 (arXiv 2508.00955, section 4).
    learn_temperature: train log(1 / T) from there, and bound 1 / T by 100, as CLIP does (arXiv 2103.00020).

    What is left out of the sum over j, as it is no negative of query i:

    mask_identical: candidates that are the same item as its positive. False is the paper's plain loss.
    mask_known: candidates that some training row pairs with the same query.
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
        answers: ContrastiveTargets,
        scale: Float[Tensor, ""] | None = None,
    ) -> Float[Tensor, ""]:
        """The loss of n queries. Candidate i is the positive of query i; those after the n-th are nobody's.

        scale: 1 / T; None is `scale()`.
        """
        scale = self.scale() if scale is None else scale
        width = queries.shape[1]
        if self.dims and max(self.dims) > width:
            raise UserError(f"loss.dims={list(self.dims)} go beyond the model's vectors of {width} elements")
        dims, sums = self.dims or (width,), []
        for dim in dims:
            sides = (queries, candidates) if dim == width else (unit(side[:, :dim]) for side in (queries, candidates))
            of_block = partial(checkpoint, self._summed, *sides, use_reentrant=False, preserve_rng_state=False)
            sums += [of_block(answers, scale, rows) for rows in blocks(len(queries), len(candidates))]
        return torch.stack(sums).sum() / (len(dims) * len(queries))

    def _summed(
        self,
        queries: Float[Tensor, "n d"],
        candidates: Float[Tensor, "m d"],
        answers: ContrastiveTargets,
        scale: Float[Tensor, ""],
        rows: slice,
    ) -> Float[Tensor, ""]:
        """Of some queries, the sum of their losses."""
        similarity = torch.einsum("nd,md->nm", queries[rows], candidates)
        own = torch.arange(rows.start, rows.stop, device=similarity.device)
        out = self.left_out(similarity, answers, rows)
        return nn.functional.cross_entropy((similarity * scale).masked_fill(out, -torch.inf), own, reduction="sum")

    def left_out(
        self, similarity: Float[Tensor, "b m"], answers: ContrastiveTargets, rows: slice
    ) -> Bool[Tensor, "b m"]:
        """Return which candidates are no negatives of some queries, by the masks; never a query's own positive."""
        own = torch.arange(rows.start, rows.stop, device=similarity.device)[:, None]
        out = torch.zeros_like(similarity, dtype=torch.bool)
        if self.mask_identical:
            out |= answers.identical(rows)
        if self.mask_known:
            out |= answers.paired(rows)
        if self.mask_margin is not None:
            out |= similarity > similarity.gather(1, own) + self.mask_margin
        return out.scatter_(1, own, False)


@torch.no_grad()
def describe(
    queries: Float[Tensor, "n d"], candidates: Float[Tensor, "m d"], answers: ContrastiveTargets, loss: InfoNCE
) -> dict[str, Float[Tensor, ""]]:
    """How a batch stands, where what is known of the query, its own positive included, is right, all else wrong.

    accuracy: share of queries whose most similar candidate is right. positive_similarity: mean over own positives.
    negative_similarity: mean over all that is wrong. without_negatives: queries to which the loss leaves no candidate
    but ones that equal the positive, so that they train nothing.
    """
    sums = queries.new_zeros(5)
    for rows in blocks(len(queries), len(candidates)):
        similarity = queries[rows] @ candidates.T
        right = answers.paired(rows)
        hits = right.gather(1, similarity.argmax(dim=1, keepdim=True))
        own, wrong = similarity.diagonal(rows.start), similarity.masked_fill(right, 0)
        alone = (loss.left_out(similarity, answers, rows) | answers.identical(rows)).all(dim=1)
        sums += torch.stack([hits.sum(), own.sum(), wrong.sum(), (~right).sum(), alone.sum()])
    accuracy, positive = sums[:2] / len(queries)
    return {
        "accuracy": accuracy,
        "positive_similarity": positive,
        "negative_similarity": sums[2] / sums[3],
        "without_negatives": sums[4],
    }


def unit(vectors: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    return nn.functional.normalize(vectors, dim=-1)
