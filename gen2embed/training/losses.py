"""Contrastive losses on unit vectors: InfoNCE, and the interface of a loss of your own.

A loss is any `torch.nn.Module` whose `forward(queries, candidates, targets)` returns a scalar to minimise:

    queries     [n, d]  unit vectors of the queries of the global batch, of all ranks
    candidates  [m, d]  unit vectors; candidate i < n is the positive of query i, the others are explicit negatives
    targets             which candidates are the same item, as `ContrastiveTargets`

It sees no model and no chunks: gradient caching and ranks give it the whole batch, so that its value and its gradient
do not depend on them. Its parameters that require a gradient are trained, and saved in the checkpoints of the run.
A subclass of `ContrastiveLoss` may override what training asks beyond that; for a plain module the defaults hold.
"""

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
    """Which of m candidates answer which of n queries, by item numbers: equal numbers are the same item.

    Args:
        candidates: The item number of each candidate; candidate i < n is the positive of query i.
        known: The item numbers of the positives that training rows pair with each query, its own among them; where
            there are fewer than k, the last is repeated, as in [[7, 7], [8, 9]]. Its own alone (k = 1) unless the
            loss `needs_known_positives`.
    """

    candidates: Int[Tensor, " m"]
    known: Int[Tensor, "n k"]

    def identical(self, rows: slice) -> Bool[Tensor, "b m"]:
        """Return which candidates are the same item as the positive of each of the b queries of `rows`."""
        return self.candidates[rows, None] == self.candidates

    def paired(self, rows: slice) -> Bool[Tensor, "b m"]:
        """Return which candidates some training row pairs with each of the b queries of `rows`."""
        paired = self.known[rows, :1] == self.candidates
        for column in self.known[rows, 1:].T:
            paired |= column[:, None] == self.candidates
        return paired


class ContrastiveLoss(nn.Module):
    """A loss with all that training asks of one; each member has a default.

    Attributes:
        needs_known_positives: Whether `targets.known` must hold all positives of a query in the training data, and not
            its own alone.
    """

    needs_known_positives: bool = False

    def forward(
        self, queries: Float[Tensor, "n d"], candidates: Float[Tensor, "m d"], targets: ContrastiveTargets
    ) -> Float[Tensor, ""]:
        """Return the loss of the n queries."""
        raise NotImplementedError

    def masked(self, similarity: Float[Tensor, "b m"], targets: ContrastiveTargets, rows: slice) -> Bool[Tensor, "b m"]:
        """Return which candidates the loss does not take as negatives of the b queries of `rows`; by default none.

        The metric `without_negatives` counts the queries to which this leaves no negative.
        """
        return torch.zeros_like(similarity, dtype=torch.bool)

    def metrics(self) -> dict[str, Tensor]:
        """Return scalars to log after each step, by name; by default none."""
        return {}


def blocks(queries: int, candidates: int) -> Iterator[slice]:
    """Yield slices of the queries, with about `BLOCK` similarities each to all candidates."""
    size = max(1, BLOCK // candidates)
    for start in range(0, queries, size):
        yield slice(start, min(start + size, queries))


class InfoNCE(ContrastiveLoss):
    """InfoNCE over the candidates of a batch: each query against its own positive and all other candidates.

        loss = mean over i of  -log( exp(q_i . c_i / T) / sum over j of exp(q_i . c_j / T) )

    With T = 0.1, a positive at 0.8 and one other candidate at 0.6 give -log(e^8 / (e^8 + e^6)) = 0.127.

    Args:
        temperature: T; the paper's is 0.02 (arXiv 2508.00955, section 4).
        mask_identical: Whether the sum over j leaves out candidates that are the same item as the positive of query i,
            since they are no negatives. False is the paper's plain loss.
        mask_known: Whether it leaves out candidates that some training row pairs with query i.
        mask_margin: It leaves out candidates whose similarity to query i is above that of its positive by more than
            this: with 0.1 and a positive at 0.6, those above 0.7, as in Qwen3 Embedding (arXiv 2506.05176, section 3);
            None leaves out none.
        dims: Sizes d; the loss is the mean of the losses of the first d elements, as unit vectors, so that vectors can
            be cut (Matryoshka representations, arXiv 2205.13147); None takes whole vectors alone.
        learn_temperature: Whether log(1 / T) is trained, beginning at `temperature`, with 1 / T at most 100 as in CLIP
            (arXiv 2103.00020).
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
        self.needs_known_positives = mask_known

    def scale(self) -> Float[Tensor, ""]:
        """Return 1 / T, with its gradient if it is learned."""
        if self.log_scale is None:
            return torch.tensor(1 / self.temperature, dtype=torch.float64)
        return self.log_scale.exp().clamp(max=LARGEST_SCALE).squeeze()

    def metrics(self) -> dict[str, Tensor]:
        """Return a learned temperature."""
        return {} if self.log_scale is None else {"temperature": 1 / self.scale().detach()}

    def forward(
        self, queries: Float[Tensor, "n d"], candidates: Float[Tensor, "m d"], targets: ContrastiveTargets
    ) -> Float[Tensor, ""]:
        """Return the mean loss of the n queries, over `dims` if there are several.

        Raises:
            UserError: If `dims` go beyond the vectors.
        """
        scale, width = self.scale(), queries.shape[1]
        if self.dims and max(self.dims) > width:
            raise UserError(f"loss.dims={list(self.dims)} go beyond the model's vectors of {width} elements")
        dims, sums = self.dims or (width,), []
        for dim in dims:
            sides = (queries, candidates) if dim == width else (unit(side[:, :dim]) for side in (queries, candidates))
            # similarities are computed again in the backward pass, so that those of one block exist at a time
            block_sum = partial(checkpoint, self._sum, *sides, use_reentrant=False, preserve_rng_state=False)
            sums += [block_sum(targets, scale, rows) for rows in blocks(len(queries), len(candidates))]
        return torch.stack(sums).sum() / (len(dims) * len(queries))

    def _sum(
        self,
        queries: Float[Tensor, "n d"],
        candidates: Float[Tensor, "m d"],
        targets: ContrastiveTargets,
        scale: Float[Tensor, ""],
        rows: slice,
    ) -> Float[Tensor, ""]:
        """Return the sum of the losses of the queries of `rows`."""
        similarity = torch.einsum("nd,md->nm", queries[rows], candidates)
        positives = torch.arange(rows.start, rows.stop, device=similarity.device)
        masked = self.masked(similarity, targets, rows)
        logits = (similarity * scale).masked_fill(masked, -torch.inf)
        return nn.functional.cross_entropy(logits, positives, reduction="sum")

    def masked(self, similarity: Float[Tensor, "b m"], targets: ContrastiveTargets, rows: slice) -> Bool[Tensor, "b m"]:
        """Return which candidates the three masks leave out; never a query's own positive."""
        positives = torch.arange(rows.start, rows.stop, device=similarity.device)[:, None]
        masked = torch.zeros_like(similarity, dtype=torch.bool)
        if self.mask_identical:
            masked |= targets.identical(rows)
        if self.mask_known:
            masked |= targets.paired(rows)
        if self.mask_margin is not None:
            masked |= similarity > similarity.gather(1, positives) + self.mask_margin
        return masked.scatter_(1, positives, False)


@torch.no_grad()
def batch_metrics(
    queries: Float[Tensor, "n d"], candidates: Float[Tensor, "m d"], targets: ContrastiveTargets, loss: ContrastiveLoss
) -> dict[str, Float[Tensor, ""]]:
    """Return metrics of a batch. A candidate is right if it is one of the query's positives in `targets.known`.

    Returns:
        accuracy: The share of queries whose most similar candidate is right.
        positive_similarity: The mean over queries and their own positives.
        negative_similarity: The mean over queries and all candidates that are not right.
        without_negatives: The number of queries to which the loss leaves no candidate but ones that equal the positive,
            so that they train nothing.
    """
    sums = queries.new_zeros(5)
    for rows in blocks(len(queries), len(candidates)):
        similarity = queries[rows] @ candidates.T
        right = targets.paired(rows)
        hits = right.gather(1, similarity.argmax(dim=1, keepdim=True))
        positive, negative = similarity.diagonal(rows.start), similarity.masked_fill(right, 0)
        without_negatives = (loss.masked(similarity, targets, rows) | targets.identical(rows)).all(dim=1)
        sums += torch.stack([hits.sum(), positive.sum(), negative.sum(), (~right).sum(), without_negatives.sum()])
    accuracy, positive_mean = sums[:2] / len(queries)
    return {
        "accuracy": accuracy,
        "positive_similarity": positive_mean,
        "negative_similarity": sums[2] / sums[3],
        "without_negatives": sums[4],
    }


def unit(vectors: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Return the vectors at length one."""
    return nn.functional.normalize(vectors, dim=-1)
