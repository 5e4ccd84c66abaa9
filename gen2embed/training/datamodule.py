"""Training batches: a rank's part of a plan, turned into model inputs by the loader's workers."""

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

from gen2embed.encoding.batch import Prepare, Prepared, tensors_of, to_shared_memory
from gen2embed.training.batches import ClusterBatchSampler, RankBatchSampler
from gen2embed.types import Item, Pair
from gen2embed.utils.choices import Role
from gen2embed.utils.errors import UserError
from gen2embed.utils.log import log
from gen2embed.utils.workers import Prefetch, bytes_of, make_loader, unwrap, value_or_error

SAMPLED = 16  # pairs of the first batch, and as many with pictures, whose size is measured before training


@dataclass
class TrainingBatch(Prepared):
    """A batch of n pairs, with e explicit negatives, in the order query 0 .. n-1, positive 0 .. n-1, negative 0 .. e-1.

    Args:
        positives: The item number of each positive. Equal items have equal numbers, on every rank.
        negatives: The item number of each explicit negative.
        known: The item numbers of the known positives of each query; if there are fewer than k, the last is repeated.
        rows: Where each pair comes from, for messages.
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

    Args:
        prepare: Makes chunks of items, each in its role.
        known: The item numbers of all positives of a query, by its key, for queries that have several
            (`several_positives`).
    """

    prepare: Prepare
    known: Mapping[str, Sequence[int]] = field(default_factory=dict)

    def __call__(self, pairs: Sequence[Pair]) -> TrainingBatch:
        """Return the batch; raises `UserError` for an item that cannot be prepared."""
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
        """Return the numbers of the query's positives, the last repeated up to the length of the longest list."""
        numbers = list(self.known.get(pair.query.key, ())) if self.known else []
        numbers = numbers or [number(pair.positive)]
        return numbers + numbers[-1:] * (self._most - len(numbers))


def attempt(collate: Collate, pairs: Sequence[Pair]) -> TrainingBatch | UserError:
    """Return the batch of some pairs in shared memory, or the `UserError` that names the rows at fault."""
    batch = value_or_error(lambda: to_shared_memory(collate(pairs)))
    if isinstance(batch, UserError):
        rows = ", ".join(f"{pair.subset} row {pair.row}" for pair in pairs if _names(batch, pair))
        return UserError(f"{rows}: {batch}") if rows else batch
    return batch


def _names(error: UserError, pair: Pair) -> bool:
    """Return whether an error's message names one of a pair's items or pictures."""
    names = (*map(str, pair.pictures), *map(str, (pair.query, pair.positive, *pair.negatives)))
    return any(name in str(error) for name in names)


def number(item: Item) -> int:
    """Return the item's number: 64 bits of its key, which is a digest in hexadecimal."""
    return int.from_bytes(bytes.fromhex(item.key[:16]), signed=True)


def several_positives(pairs: Iterable[Pair]) -> dict[str, list[int]]:
    """Return the item numbers of the positives of each query that has several, by the query's key."""
    positives: dict[str, dict[int, None]] = {}  # a dict keeps the order of the rows, which a set would not
    for pair in pairs:
        positives.setdefault(pair.query.key, {})[number(pair.positive)] = None
    return {key: list(numbers) for key, numbers in positives.items() if len(numbers) > 1}


def warn_about_positives(plan: ClusterBatchSampler, pairs: Sequence[Pair]) -> None:
    """Warn of subsets whose pairs all have the same positive, and of batches in which no query has a negative."""
    positives = plan.positives
    if positives is None:
        return
    trained = {pair.subset for pair in pairs if plan.weights is None or plan.weights[pair.subset] > 0}
    for name, rows in positives.lone_subsets(pairs).items():
        if name not in trained:
            continue
        if plan.mixed and len(trained) > 1:
            outcome = "its only negatives are of other subsets"
        else:
            more = "" if plan.mixed else ", or set batch.mixed=true"
            outcome = f"its batches train nothing; leave it out of data.subsets, or add other positives{more}"
        details = name, len(rows), pairs[rows[0]].positive, outcome
        log.warning("every pair of subset %s has the same positive (%d rows: %s): %s", *details)
    batches = plan.epoch(0)
    alone = sum(positives.only_candidate(chain.from_iterable(batch)) is not None for batch in batches)
    if alone:
        log.warning(
            "%d of %d batches of an epoch hold one positive alone: no query has a negative there, and they train "
            "nothing; add pairs with other positives, or raise batch.pairs",
            alone,
            len(batches),
        )


def largest_batch(pairs: Sequence[Pair], sampler: RankBatchSampler, collate: Collate) -> int:
    """Return about how many bytes the largest batch of a rank has in the first epoch.

    It is extrapolated from a sample with pictures of each subset: a picture counts as the sample's largest, and
    everything else as the sample's mean.
    """
    counts = np.array([len(pair.pictures) for pair in pairs])
    batches = [sampler.part(batch, rank) for batch in sampler.plan.epoch(0) for rank in range(sampler.count)]
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
    """Serves a rank's batches without end; the trainer's `max_steps` ends the training.

    A batch is a step of the optimiser, so a resumed run continues with the batch after its steps, whatever its workers
    had prepared.

    Args:
        pairs: The training rows.
        sampler: This rank's batches of rows.
        collate: Makes a batch of its pairs.
        ahead: How many batches worker processes prepare ahead; None prepares each when it is needed.
    """

    def __init__(
        self, pairs: Sequence[Pair], sampler: RankBatchSampler, collate: Collate, ahead: Prefetch | None = None
    ) -> None:
        super().__init__()
        self.pairs, self.sampler, self.collate, self.ahead = pairs, sampler, collate, ahead or Prefetch(0)

    def train_dataloader(self) -> DataLoader[Any]:
        return make_loader(
            self.pairs,  # type: ignore[arg-type]
            self.ahead,
            batch_sampler=self.sampler,
            collate_fn=partial(attempt, self.collate),
        )

    def state_dict(self) -> dict[str, int]:
        assert self.trainer is not None
        return {"batches": self.trainer.global_step}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.sampler = replace(self.sampler, first=state_dict["batches"])
