"""Training batches: a rank's share of a plan, turned into model inputs by the loader's workers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import chain
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from gen2embed.encoding.batch import Prepare, Prepared, shared, tensors_of
from gen2embed.training.batches import ClusterBatchSampler, RankBatchSampler
from gen2embed.types import Item, Pair
from gen2embed.utils.choices import Role
from gen2embed.utils.errors import UserError
from gen2embed.utils.log import log
from gen2embed.utils.workers import Prefetch, bytes_of, make_loader, unwrap, value_or_error

SAMPLED = 16  # pairs of the first batch, and as many with pictures, whose size is looked at before training


@dataclass
class TrainingBatch(Prepared):
    """A batch of n pairs, with e explicit negatives, in the order query 0 .. n-1, positive 0 .. n-1, negative 0 .. e-1.

    positives, negatives: a number of each, equal for the same items, on every rank.
    known: the numbers of all positives of each query; of fewer than k, the last is repeated.
    rows: where each pair comes from, for messages.
    """

    positives: Int[Tensor, " n"]
    negatives: Int[Tensor, " e"]
    known: Int[Tensor, "n k"]
    rows: list[str]

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class Collate:
    """Makes a `TrainingBatch` of pairs.

    prepare: chunks of items, each in its role.
    known: of queries with several positives, by their key: the numbers of those (`several_positives`).
    """

    prepare: Prepare
    known: Mapping[str, Sequence[int]] = field(default_factory=dict)

    def __call__(self, pairs: Sequence[Pair]) -> TrainingBatch:
        """Raises `UserError` for what cannot be prepared."""
        negatives = [item for pair in pairs for item in pair.negatives]
        items: list[tuple[Item, Role]] = [(pair.query, "query") for pair in pairs]
        items += [(item, "candidate") for item in (*(pair.positive for pair in pairs), *negatives)]
        return TrainingBatch(
            **vars(self.prepare(items)),
            positives=torch.tensor([number(pair.positive) for pair in pairs]),
            negatives=torch.tensor([number(item) for item in negatives], dtype=torch.int64),
            known=torch.tensor([self._known(pair) for pair in pairs]),
            rows=[f"{pair.subset} row {pair.row}" for pair in pairs],
        )

    @cached_property
    def _most(self) -> int:
        return max(map(len, self.known.values()), default=1)

    def _known(self, pair: Pair) -> list[int]:
        its = list(self.known.get(pair.query.key, ())) if self.known else []
        its = its or [number(pair.positive)]
        return its + its[-1:] * (self._most - len(its))


def attempt(collate: Collate, pairs: Sequence[Pair]) -> TrainingBatch | UserError:
    """Return the batch of some pairs in shared memory, or the `UserError` that names the rows at fault."""
    batch = value_or_error(lambda: shared(collate(pairs)))
    if isinstance(batch, UserError):
        rows = ", ".join(f"{pair.subset} row {pair.row}" for pair in pairs if _names(batch, pair))
        return UserError(f"{rows}: {batch}") if rows else batch
    return batch


def _names(error: UserError, pair: Pair) -> bool:
    """Whether an error is of one of a pair's items or pictures, whose names stand in it."""
    named = (*map(str, pair.pictures), *map(str, (pair.query, pair.positive, *pair.negatives)))
    return any(name in str(error) for name in named)


def number(item: Item) -> int:
    """64 bits of the item's key, which is a digest in hexadecimal."""
    return int.from_bytes(bytes.fromhex(item.key[:16]), signed=True)


def several_positives(pairs: Iterable[Pair]) -> dict[str, list[int]]:
    """The numbers of the positives of each query that has several, by the query's key."""
    found: dict[str, dict[int, None]] = {}
    for pair in pairs:
        found.setdefault(pair.query.key, {})[number(pair.positive)] = None
    return {key: list(numbers) for key, numbers in found.items() if len(numbers) > 1}


def warn_about_positives(plan: ClusterBatchSampler, pairs: Sequence[Pair]) -> None:
    """Warn of subsets that have one positive alone, and of batches in which no query has a negative."""
    positives = plan.positives
    if positives is None:
        return
    trained = {pair.subset for pair in pairs if plan.weights is None or plan.weights[pair.subset] > 0}
    for name, its in positives.lone_subsets(pairs).items():
        if name not in trained:
            continue
        if plan.mixed and len(trained) > 1:
            outcome = "its only negatives are of other subsets"
        else:
            more = "" if plan.mixed else ", or set batch.mixed=true"
            outcome = f"its batches train nothing; leave it out of data.subsets, or add other positives{more}"
        said = name, len(its), pairs[its[0]].positive, outcome
        log.warning("every pair of subset %s has the same positive (%d rows: %s): %s", *said)
    batches = plan.epoch(0)
    alone = sum(positives.only_candidate(chain.from_iterable(batch)) is not None for batch in batches)
    if alone:
        log.warning(
            "%d of %d batches of an epoch hold one positive alone: no query has a negative there, and they train "
            "nothing; add pairs with other positives, or raise batch.pairs",
            alone,
            len(batches),
        )


def largest_batch(pairs: Sequence[Pair], share: RankBatchSampler, collate: Collate) -> int:
    """Return about how many bytes the largest batch of a rank has in the first epoch.

    Every picture counts as much as the largest of a sample, which has some of each subset, and all else as in its mean.
    """
    counts = np.array([len(pair.pictures) for pair in pairs])
    batches = [share.part(batch, rank) for batch in share.plan.epoch(0) for rank in range(share.count)]
    most = max(int(counts[rows].sum()) for rows in batches)
    pictured: dict[str, Pair] = {}
    for pair, count in zip(pairs, counts, strict=True):
        if count:
            pictured.setdefault(pair.subset, pair)
    sample = [*[pairs[row] for row in batches[0][:SAMPLED]], *list(pictured.values())[:SAMPLED]]
    batch = unwrap(attempt(collate, sample))
    own = [bytes_of(inputs.values()) for inputs in batch.pictures.values()]
    within = [
        (bytes_of(chunk.inputs.values()), chunk.rows) for chunk in batch.chunks if chunk.pictured and not batch.pictures
    ]
    largest = max([*own, *(size // rows for size, rows in within)], default=0)
    rest = bytes_of(tensors_of(batch)) - sum(own) - sum(size for size, _ in within)
    return most * largest + rest * max(len(sample), *map(len, batches)) // len(sample)


class PairDataModule(LightningDataModule):
    """Serves a rank's batches for ever; the trainer's `max_steps` ends it.

    ahead: how many batches worker processes prepare ahead.

    A batch is a step of the optimiser, so a resumed run goes on with the batch after its steps, whatever its workers
    had prepared.
    """

    def __init__(
        self, pairs: Sequence[Pair], share: RankBatchSampler, collate: Collate, ahead: Prefetch | None = None
    ) -> None:
        super().__init__()
        self.pairs, self.share, self.collate, self.ahead = pairs, share, collate, ahead or Prefetch(0)

    def train_dataloader(self) -> DataLoader[Any]:
        return make_loader(
            self.pairs,  # type: ignore[arg-type]
            self.ahead,
            batch_sampler=self.share,
            collate_fn=partial(attempt, self.collate),
        )

    def state_dict(self) -> dict[str, int]:
        assert self.trainer is not None
        return {"batches": self.trainer.global_step}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.share = replace(self.share, first=state_dict["batches"])
