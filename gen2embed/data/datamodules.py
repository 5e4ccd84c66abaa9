"""Training batches: a rank's share of a plan, turned into model inputs by the loader's workers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from gen2embed.data.batches import Share, apart
from gen2embed.types import Inputs, Item, Pair, Role


@dataclass
class TrainingBatch:
    """A batch of n pairs as chunks of inputs.

    order: everything[order] puts the chunks' rows in the order query 0 .. n-1, candidate 0 .. n-1.
    positives: a number of each positive, equal for the same items, on every rank.
    rows: where each pair comes from, for messages.
    """

    chunks: list[Inputs]
    order: Int[Tensor, " 2n"]
    positives: Int[Tensor, " n"]
    rows: list[str]


@dataclass(frozen=True)
class Collate:
    """Makes a `TrainingBatch` of pairs. build: inputs of items in a role. Chunks are of at most so many rows."""

    build: Callable[[Sequence[Item], Role], Inputs]
    query_chunk: int
    candidate_chunk: int

    def __call__(self, pairs: Sequence[Pair]) -> TrainingBatch:
        sides: list[tuple[Role, list[Item], int]] = [
            ("query", [pair.query for pair in pairs], self.query_chunk),
            ("candidate", [pair.positive for pair in pairs], self.candidate_chunk),
        ]
        chunks: list[Inputs] = []
        placed: list[int] = []
        for offset, (role, items, chunk) in zip((0, len(pairs)), sides, strict=True):
            by_length = sorted(range(len(items)), key=lambda index: sum(map(len, items[index].texts)))
            for part in apart([items[index] for index in by_length], chunk):
                chosen = [by_length[index] for index in part]
                chunks.append(self.build([items[index] for index in chosen], role))
                placed += [offset + index for index in chosen]
        positives = torch.tensor([_number(pair.positive) for pair in pairs])
        order = torch.tensor(placed).argsort()
        return TrainingBatch(chunks, order, positives, [f"{pair.subset} row {pair.row}" for pair in pairs])


def _number(item: Item) -> int:
    """64 bits of the item's key, which is a digest in hexadecimal."""
    return int.from_bytes(bytes.fromhex(item.key[:16]), signed=True)


class PairDataModule(LightningDataModule):
    """Serves a rank's batches for ever; the trainer's `max_steps` ends it."""

    def __init__(self, pairs: Sequence[Pair], share: Share, collate: Collate, workers: int = 0) -> None:
        super().__init__()
        self.pairs, self.share, self.collate, self.workers = pairs, share, collate, workers

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(
            self.pairs,  # type: ignore[arg-type]
            batch_sampler=self.share,
            collate_fn=self.collate,
            num_workers=self.workers,
        )
