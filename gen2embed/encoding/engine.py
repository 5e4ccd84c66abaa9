"""The one loop that embeds items: distinct ones once, like ones side by side, in shards that survive a kill."""

from __future__ import annotations

import gc
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from gen2embed.data.pictures import read_facts
from gen2embed.encoding.batch import Chunk, ChunkLimit, Inputs, Prepared, shared, tensors_of
from gen2embed.encoding.store import EmbeddingStore
from gen2embed.encoding.truncation import Cut
from gen2embed.types import Advance, Item
from gen2embed.utils.choices import Role
from gen2embed.utils.errors import UserError
from gen2embed.utils.fingerprints import Fingerprint
from gen2embed.utils.log import log, progress
from gen2embed.utils.rank_group import ALONE, RankGroup
from gen2embed.utils.workers import TAKEN, Ahead, bytes_of, explained, make_loader, room, unwrap, value_or_error

PROGRESS_FROM = 256  # items; fewer are embedded without a bar
TEXT_PART, PICTURED_PART = 512, 32  # items that are prepared, and share what they begin alike, at a time
FEWEST_TOKENS = 64  # a forward pass; with less, memory is short for another reason
MOST_WORKERS = 8
Part = Sequence[tuple[Item, Role]]


class Model(Protocol):
    """What the engine needs of an embedder."""

    @property
    def fingerprint(self) -> Fingerprint:
        """Everything that decides an embedding."""

    @property
    def budget(self) -> int:
        """Tokens that its device runs well in one pass."""

    @property
    def prepare(self) -> Callable[[Sequence[tuple[Item, Role]], ChunkLimit], Prepared]:
        """Makes chunks of items; needs no model, and may run in another process."""

    def embed_chunk(self, chunk: Chunk, pictures: Mapping[str, Inputs]) -> Float[Tensor, "r d"]:
        """Unit vectors of a chunk's rows. pictures: by digest, those of the chunk at least."""


@dataclass(frozen=True)
class Encoded:
    """Float32 unit vectors (n, d) on the CPU; how many this process computed, and how many it found stored; seconds.

    cut: of the distinct items, stored ones included, those that lost the end of their text.
    """

    vectors: Float[Tensor, "n d"]
    computed: int
    reused: int
    seconds: float
    cut: Cut = field(default_factory=Cut)


@dataclass(frozen=True)
class Engine:
    """How items become vectors.

    batch_tokens: of a forward pass; None leaves it to the device. Halved where memory does not suffice.
    workers: processes that open pictures and tokenise texts; None is none on a CPU, which has enough to do.
    prefetch: parts of at most 32 items with pictures that they hold ready or prepare, all together; None is one each.
    store: folder of embedding stores; None keeps vectors in memory only.
    shard_size: distinct items between two writes to the store.
    shown: show a bar for long work.
    """

    batch_tokens: int | None = None
    workers: int | None = None
    store: Path | None = None
    shard_size: int = 1024
    shown: bool = True
    prefetch: int | None = None

    def __post_init__(self) -> None:
        for name in ("batch_tokens", "shard_size"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise UserError(f"engine.{name} is at least 1; got {value}")
        Ahead(self.workers or 0, self.prefetch, "engine")

    def encode(
        self, model: Model, items: Sequence[Item], role: Role, title: str = "encoding", peers: RankGroup = ALONE
    ) -> Encoded:
        """Embed items in a role, in the order given. Every one of `peers` embeds its part, and has all vectors."""
        started = time.perf_counter()
        if not items:
            return Encoded(torch.empty(0, 0), 0, 0, 0.0)
        shown = self.shown and peers.rank == 0
        read_facts((picture for item in items for picture in item.pictures), shown=shown)
        keys = [f"{role}:{item.key}" for item in items]
        distinct = dict(zip(keys, items, strict=True))
        store = EmbeddingStore.under(Path(self.store), model.fingerprint) if self.store else None
        absent = {key: item for key, item in distinct.items() if store is None or key not in store}
        missing = _by_cost(absent)
        shards = [missing[start : start + self.shard_size] for start in range(0, len(missing), self.shard_size)]
        if peers.count > 1 and store is None:
            raise UserError("several ranks share embeddings through the store, and there is none; set engine.store")
        peers.barrier()  # all see the same shards missing, before the first is written
        own, vectors, needed = peers.share(shards), dict[str, np.ndarray](), dict[str, int]()
        computed = sum(map(len, own))
        bar = progress(title, computed, shown=shown and computed >= PROGRESS_FROM)
        with bar as advance, explained():
            parts = [_parts([distinct[key] for key in shard]) for shard in own]
            every = [[(item, role) for item in part] for its in parts for part in its]
            embedded = self._embed(model, every, advance, peers.count)
            for shard, its in zip(own, parts, strict=True):
                done = list(islice(embedded, len(its)))
                rows, lengths = np.concatenate([rows for rows, _ in done]), np.concatenate([cut for _, cut in done])
                _check_finite([distinct[key] for key in shard], rows)
                if store is not None:
                    store.write(shard, rows, lengths)
                else:
                    vectors |= zip(shard, rows, strict=True)
                    needed |= {key: tokens for key, tokens in zip(shard, lengths.tolist(), strict=True) if tokens}
        if store is not None:
            store.await_shards(shards, peers)
            needed = store.needed_tokens(distinct)
        out = store.read(keys) if store is not None else np.stack([vectors[key] for key in keys])
        named = ((str(item), needed[key]) for key, item in distinct.items() if key in needed)
        cut = Cut.of(named, len(distinct), model.fingerprint.get("max_length", 0))
        if peers.rank == 0:
            cut.warn(f"inputs in the role {role}")
        seconds = time.perf_counter() - started
        return Encoded(torch.from_numpy(out), computed, len(distinct) - len(missing), seconds, cut)

    def _embed(
        self, model: Model, parts: Sequence[Part], advance: Advance, ranks: int = 1
    ) -> Iterator[tuple[np.ndarray, Int[np.ndarray, " n"]]]:
        """The vectors of each part, and the tokens that its cut items need (0 for others).

        Worker processes prepare the next parts meanwhile. ranks: that share the machine.
        """
        tokens, done = self.batch_tokens or model.budget, 0
        while done < len(parts):
            try:
                for prepared in self._prepared(model, parts[done:], ChunkLimit(tokens), ranks):
                    part = unwrap(prepared)
                    rows = _run(model, part)
                    lengths = np.array([part.cut.get(at, 0) for at in range(len(rows))])
                    done += 1
                    advance(len(rows))
                    yield rows, lengths
            except Exception as error:
                # accelerate imports most of torch, and memory is seldom short
                from accelerate.utils.memory import should_reduce_batch_size  # noqa: PLC0415

                if tokens <= FEWEST_TOKENS or not should_reduce_batch_size(error):
                    raise
                tokens //= 2
                log.warning("memory did not suffice; going on with engine.batch_tokens=%d", tokens)
                gc.collect()
                torch.cuda.empty_cache()

    def _prepared(
        self, model: Model, parts: Sequence[Part], limit: ChunkLimit, ranks: int
    ) -> DataLoader[Prepared | UserError]:
        return make_loader(
            _Parts(model.prepare, parts, limit),
            self._ahead(model, parts, limit, ranks),
            batch_size=None,
            generator=torch.Generator(),  # leaves the global stream alone
        )

    def _ahead(self, model: Model, parts: Sequence[Part], limit: ChunkLimit, ranks: int) -> Ahead:
        """Return how many parts are prepared ahead; if nobody chose the workers, as many as shared memory holds."""
        workers = self.workers
        if workers is None:
            workers = min(MOST_WORKERS, (os.cpu_count() or 1) - 1) if torch.cuda.is_initialized() else 0
        ahead = Ahead(min(workers, len(parts)), self.prefetch, "engine")
        if not ahead.processes:
            return ahead
        largest = model.prepare([parts[-1][-1]], limit)  # items are sorted by the size of their pictures
        size = bytes_of(tensors_of(largest)) * max(map(len, parts))
        if self.workers is not None:
            ahead.check(size, ranks)
            return ahead
        where, free = room()
        if ahead.held * size * ranks > free:
            fits = max(0, free // (size * ranks) - TAKEN)
            log.warning("%s has too little room: %d parts are prepared ahead in place of %d", where, fits, ahead.held)
            ahead = replace(ahead, workers=min(ahead.workers, fits), prefetch=fits or None)
        return ahead


@dataclass(frozen=True)
class _Parts(Dataset[Prepared | UserError]):
    """Prepares parts in worker processes."""

    prepare: Callable[[Sequence[tuple[Item, Role]], ChunkLimit], Prepared]
    parts: Sequence[Part]
    limit: ChunkLimit

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, index: int) -> Prepared | UserError:
        return value_or_error(lambda: shared(self.prepare(self.parts[index], self.limit)))


@torch.no_grad()  # not inference_mode: a picture's features may serve a training step later
def _run(model: Model, prepared: Prepared) -> np.ndarray:
    rows = [model.embed_chunk(chunk, prepared.pictures) for chunk in prepared.chunks]
    return torch.cat(rows).float().cpu()[prepared.order].numpy()


def _parts(items: Sequence[Item]) -> list[list[Item]]:
    """Items, those without pictures first, in the parts that are prepared at a time."""
    parts: list[list[Item]] = []
    for pictured, size in ((False, TEXT_PART), (True, PICTURED_PART)):
        its = [item for item in items if bool(item.pictures) == pictured]
        parts += [its[start : start + size] for start in range(0, len(its), size)]
    return parts


def _check_finite(items: Sequence[Item], rows: np.ndarray) -> None:
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(bad):
        raise UserError(
            f"the embedding of {items[bad[0]]} is not finite; try model.dtype=float32, and check the weights"
        )


def _by_cost(items: Mapping[str, Item]) -> list[str]:
    """Their keys, in the order to embed them."""
    return sorted(items, key=lambda key: _cost(items[key], key))


def _cost(item: Item, key: str) -> tuple[bool, int, tuple[str, ...], tuple[str, ...], str]:
    """Sorts items that begin alike side by side, those without pictures first; the key makes the order total."""
    area = sum(math.prod(picture.size) for picture in item.pictures)
    return bool(item.pictures), area, tuple(picture.key for picture in item.pictures), item.texts, key
