"""The one loop that embeds items: distinct ones once, sorted by length, in shards that survive a kill."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from gen2embed.data.batches import apart
from gen2embed.encoder.store import EmbeddingStore, Fingerprint
from gen2embed.images import HEADERS_FROM
from gen2embed.log import progress
from gen2embed.peers import ALONE, Peers
from gen2embed.types import Item, Role, UserError

PROGRESS_FROM = 256  # items; fewer are embedded without a bar


class Model(Protocol):
    """What the engine needs of an embedder."""

    @property
    def fingerprint(self) -> Fingerprint:
        """Everything that decides an embedding."""

    def embed(self, items: Sequence[Item], role: Role) -> Float[Tensor, "b d"]:
        """Unit vectors of one batch, in which all items have pictures or none has."""


@dataclass(frozen=True)
class Encoded:
    """Float32 unit vectors (n, d) on the CPU; how many this process computed, and how many it found stored; seconds."""

    vectors: Float[Tensor, "n d"]
    computed: int
    reused: int
    seconds: float


@dataclass(frozen=True)
class Engine:
    """How items become vectors.

    batch_size: items a forward pass.
    store: folder of embedding stores; None keeps vectors in memory only.
    shard_size: distinct items between two writes to the store.
    shown: show a bar for long work.
    """

    batch_size: int = 32
    store: Path | None = None
    shard_size: int = 1024
    shown: bool = True

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.shard_size < 1:
            raise UserError(f"batch_size and shard_size are at least 1; got {self.batch_size} and {self.shard_size}")

    def encode(
        self, model: Model, items: Sequence[Item], role: Role, title: str = "encoding", peers: Peers = ALONE
    ) -> Encoded:
        """Embed items in a role, in the order given. Every one of `peers` embeds its part, and has all vectors."""
        started = time.perf_counter()
        if not items:
            return Encoded(torch.empty(0, 0), 0, 0, 0.0)
        keys = [f"{role}:{item.key}" for item in items]
        distinct = dict(zip(keys, items, strict=True))
        store = EmbeddingStore.under(Path(self.store), model.fingerprint) if self.store else None
        absent = {key: item for key, item in distinct.items() if store is None or key not in store}
        shown = self.shown and peers.rank == 0
        missing = _by_cost(absent, shown)
        shards = [missing[start : start + self.shard_size] for start in range(0, len(missing), self.shard_size)]
        if peers.count > 1 and store is None:
            raise UserError("several ranks share embeddings through the store, and there is none; set engine.store")
        peers.barrier()  # all see the same shards missing, before the first is written
        own, vectors = peers.share(shards), dict[str, np.ndarray]()
        computed = sum(map(len, own))
        with progress(title, computed, shown=shown and computed >= PROGRESS_FROM) as advance:
            for shard in own:
                its, rows = [distinct[key] for key in shard], list[np.ndarray]()
                for part in apart(its, self.batch_size):
                    batch = [its[index] for index in part]
                    with torch.inference_mode():
                        rows.append(model.embed(batch, role).float().cpu().numpy())
                    _check_finite(batch, rows[-1])
                    advance(len(batch))
                if store is not None:
                    store.write(shard, np.concatenate(rows))
                else:
                    vectors |= zip(shard, np.concatenate(rows), strict=True)
        if store is not None:
            store.await_shards(shards, peers)
        out = store.read(keys) if store is not None else np.stack([vectors[key] for key in keys])
        seconds = time.perf_counter() - started
        return Encoded(torch.from_numpy(out), computed, len(distinct) - len(missing), seconds)


def _check_finite(items: Sequence[Item], rows: np.ndarray) -> None:
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(bad):
        raise UserError(
            f"the embedding of {items[bad[0]]} is not finite; try model.dtype=float32, and check the weights"
        )


def _by_cost(items: Mapping[str, Item], shown: bool) -> list[str]:
    """Their keys, in the order to embed them."""
    costs = {}
    with progress("measuring items", len(items), shown=shown and len(items) >= HEADERS_FROM) as advance:
        for key, item in items.items():
            costs[key] = _cost(item, key)
            advance()
    return sorted(items, key=costs.__getitem__)


def _cost(item: Item, key: str) -> tuple[bool, int, int, str]:
    """Sorts items of like length together, those without pictures first; the key makes the order total."""
    area = sum(math.prod(_size(picture.source)) for picture in item.pictures)
    return bool(item.pictures), area, sum(map(len, item.texts)), key


def _size(source: Path | Image.Image) -> tuple[int, int]:
    if isinstance(source, Image.Image):
        return source.size
    with Image.open(source) as opened:
        return opened.size
