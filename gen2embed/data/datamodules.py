"""Training batches: whole clusters by a plan, turned into model inputs by the loader's workers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from gen2embed.data.batches import BatchPlan, apart
from gen2embed.types import Inputs, Item, Pair, Role


@dataclass
class TrainingBatch:
    """A batch of n pairs as chunks of inputs.

    order: everything[order] puts the chunks' rows in the order query 0 .. n-1, candidate 0 .. n-1.
    identical: [i, j] says that positive j is the same item as positive i.
    rows: where each pair comes from, for messages.
    """

    chunks: list[Inputs]
    order: Int[Tensor, " 2n"]
    identical: Bool[Tensor, "n n"]
    rows: list[str]


@dataclass(frozen=True)
class Collate:
    """Makes a `TrainingBatch` of pairs. build: inputs of items in a role. chunk: rows a chunk."""

    build: Callable[[Sequence[Item], Role], Inputs]
    chunk: int

    def __call__(self, pairs: Sequence[Pair]) -> TrainingBatch:
        sides: list[tuple[Role, list[Item]]] = [
            ("query", [pair.query for pair in pairs]),
            ("candidate", [pair.positive for pair in pairs]),
        ]
        chunks: list[Inputs] = []
        placed: list[int] = []
        for offset, (role, items) in zip((0, len(pairs)), sides, strict=True):
            by_length = sorted(range(len(items)), key=lambda index: sum(map(len, items[index].texts)))
            for part in apart([items[index] for index in by_length], self.chunk):
                chosen = [by_length[index] for index in part]
                chunks.append(self.build([items[index] for index in chosen], role))
                placed += [offset + index for index in chosen]
        numbers: dict[str, int] = {}
        same = torch.tensor([numbers.setdefault(pair.positive.key, len(numbers)) for pair in pairs])
        order = torch.tensor(placed).argsort()
        return TrainingBatch(chunks, order, same[:, None] == same, [f"{pair.subset} row {pair.row}" for pair in pairs])


class PairDataModule(LightningDataModule):
    """Serves the plan's batches for ever; the trainer's `max_steps` ends it."""

    def __init__(self, pairs: Sequence[Pair], plan: BatchPlan, collate: Collate, workers: int = 0) -> None:
        super().__init__()
        self.pairs, self.plan, self.collate, self.workers = pairs, plan, collate, workers

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(
            self.pairs,  # type: ignore[arg-type]
            batch_sampler=self.plan,
            collate_fn=self.collate,
            num_workers=self.workers,
        )
