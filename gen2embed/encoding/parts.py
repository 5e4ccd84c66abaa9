"""Parts of items: what is prepared at a time, in which order, and how many are prepared ahead."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch.utils.data import DataLoader, Dataset

from gen2embed.encoding.batch import ChunkLimit, Prepared, tensors_of, to_shared_memory
from gen2embed.types import Item
from gen2embed.utils.choices import Role
from gen2embed.utils.errors import UserError
from gen2embed.utils.log import log
from gen2embed.utils.workers import TAKEN, Prefetch, bytes_of, make_loader, room, value_or_error

TEXT_PART, PICTURE_PART = 512, 32  # items that are prepared at a time, and share equal beginnings
MOST_WORKERS = 8
Part = Sequence[tuple[Item, Role]]
PreparePart = Callable[[Part, ChunkLimit], Prepared]


def sort_key(item: Item, key: str) -> tuple[bool, int, tuple[str, ...], tuple[str, ...], str]:
    """Return a sorting key: items without pictures first, small pictures before large, equal beginnings together."""
    area = sum(math.prod(picture.size) for picture in item.pictures)
    return bool(item.pictures), area, tuple(picture.key for picture in item.pictures), item.texts, key


def divide(items: Sequence[Item]) -> list[list[Item]]:
    """Divide items into parts, those without pictures first."""
    parts: list[list[Item]] = []
    for pictured, size in ((False, TEXT_PART), (True, PICTURE_PART)):
        group = [item for item in items if bool(item.pictures) == pictured]
        parts += [group[start : start + size] for start in range(0, len(group), size)]
    return parts


def load_parts(
    prepare: PreparePart,
    parts: Sequence[Part],
    limit: ChunkLimit,
    workers: int | None,
    prefetch: int | None,
    ranks: int,
) -> DataLoader[Prepared | UserError]:
    """Return a loader of prepared parts.

    Args:
        prepare: Makes chunks of a part; runs in worker processes.
        parts: Parts of items, sorted by the size of their pictures.
        limit: The largest chunk.
        workers: Processes; None is some on a GPU and none on a CPU, which has enough to do.
        prefetch: Parts that all workers together hold; None is one for each.
        ranks: Processes like this one that share the machine.
    """
    dataset = _PartDataset(prepare, parts, limit)
    return make_loader(
        dataset,
        _ahead(dataset, workers, prefetch, ranks),
        batch_size=None,
        generator=torch.Generator(),  # leaves the global stream alone
    )


def _ahead(dataset: _PartDataset, workers: int | None, prefetch: int | None, ranks: int) -> Prefetch:
    """Return how many parts are prepared ahead: as many as chosen, else as many as shared memory holds."""
    count = workers
    if count is None:
        count = min(MOST_WORKERS, (os.cpu_count() or 1) - 1) if torch.cuda.is_initialized() else 0
    ahead = Prefetch(min(count, len(dataset)), prefetch, "engine")
    if not ahead.processes:
        return ahead
    largest = dataset.prepare([dataset.parts[-1][-1]], dataset.limit)
    size = bytes_of(tensors_of(largest)) * max(map(len, dataset.parts))
    if workers is not None:
        ahead.check(size, ranks)
        return ahead
    where, free = room()
    if ahead.held * size * ranks > free:
        fits = max(0, free // (size * ranks) - TAKEN)
        log.warning("%s has too little room: %d parts are prepared ahead in place of %d", where, fits, ahead.held)
        ahead = replace(ahead, workers=min(ahead.workers, fits), prefetch=fits or None)
    return ahead


@dataclass(frozen=True)
class _PartDataset(Dataset[Prepared | UserError]):
    """Parts, each prepared when it is asked for."""

    prepare: PreparePart
    parts: Sequence[Part]
    limit: ChunkLimit

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, index: int) -> Prepared | UserError:
        return value_or_error(lambda: to_shared_memory(self.prepare(self.parts[index], self.limit)))
