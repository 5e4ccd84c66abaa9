"""The items and pairs of the rows, and their inputs, which processes prepare outside of what is timed."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from multiprocessing.reduction import ForkingPickler
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from yardstick import Drawn, draw_items

from gen2embed import Embedder, Item
from gen2embed.encoding.batch import ChunkLimit, Prepared
from gen2embed.types import Pair
from gen2embed.utils.choices import Role
from gpu_rows.bench import LABELS, ONCE, PICTURES, TEXTS

Part = TypeVar("Part")
Result = TypeVar("Result")
LENGTH = 60  # tokens of a text
TOGETHER = {PICTURES: 32, ONCE: 32, TEXTS: 512, LABELS: 512}  # items that are prepared at a time, as the engine does

_work: Callable[[Any], Any]  # of the processes that are forked below
_parts: Sequence[Any]


def draw(work: str, count: int, side: int) -> tuple[list[Item], Role]:
    """Return the items of a work, and their role."""
    drawn = Drawn()
    if work == TEXTS:
        return [Item.create(drawn.text(LENGTH, LENGTH)) for _ in range(count)], "candidate"
    if work == ONCE:
        return [Item.create(drawn.text(5, 20), drawn.picture(side)) for _ in range(count)], "query"
    return draw_items("pictures" if work == PICTURES else "labels", count, side)


def even_pairs(count: int, side: int) -> list[Pair]:
    """Return pairs of distinct pictures and texts, all as long, so that full chunks have the same number of tokens."""
    drawn = Drawn()
    items = [
        (Item.create(drawn.text(12, 12), drawn.picture(side)), Item.create(drawn.text(6, 6))) for _ in range(count)
    ]
    return [Pair(query, positive, "even", row) for row, (query, positive) in enumerate(items)]


def in_processes(work: Callable[[Part], Result], parts: Sequence[Part], workers: int) -> list[Result]:
    """Return `work(part)` for each part, in order, made by forked processes.

    The results come through pipes: /dev/shm, by which torch would send tensors, holds 64 MB on some machines.
    """
    global _work, _parts  # the fork inherits them, so that nothing must be pickled on the way there
    if min(workers, len(parts)) < 2:
        return [work(part) for part in parts]
    _work, _parts = work, parts
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads do not live on in a fork
    with multiprocessing.get_context("fork").Pool(min(workers, len(parts)), _start_process) as pool:
        return list(pool.imap(_one, range(len(parts))))


def _start_process() -> None:
    torch.set_num_threads(1)
    ForkingPickler.register(Tensor, _by_value)


def _by_value(tensor: Tensor) -> tuple[Callable[..., Tensor], tuple[np.ndarray, torch.dtype, torch.Size]]:
    """Reduce a tensor to its bytes, where torch would reduce it to the name of a file in /dev/shm."""
    return _from_bytes, (tensor.contiguous().reshape(-1).view(torch.uint8).numpy(), tensor.dtype, tensor.shape)


def _from_bytes(data: np.ndarray, dtype: torch.dtype, shape: torch.Size) -> Tensor:
    return torch.from_numpy(data).view(dtype).reshape(shape)


def _one(index: int) -> Any:
    return _work(_parts[index])


def prepare(embedder: Embedder, work: str, drawn: tuple[Sequence[Item], Role], workers: int) -> list[Prepared]:
    """Return the chunks of a work's items, in the parts and of the size that the engine makes; pinned for a GPU."""
    items, role = drawn
    size, limit = TOGETHER[work], ChunkLimit(embedder.budget)
    parts = [items[start : start + size] for start in range(0, len(items), size)]
    embedder.prepare([(items[0], role)], limit)  # makes what is cached, before the fork
    prepared = in_processes(lambda part: embedder.prepare([(item, role) for item in part], limit), parts, workers)
    return [part.pin_memory() for part in prepared] if embedder.backbone.device.type == "cuda" else prepared
