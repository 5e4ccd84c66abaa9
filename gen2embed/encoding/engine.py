"""Encode many items: each distinct one once, items with equal pictures side by side, in shards that survive a kill."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from gen2embed.data.pictures import read_facts
from gen2embed.encoding.batch import Chunk, ChunkLimit, Inputs, Prepared
from gen2embed.encoding.parts import Part, PreparePart, divide, load_parts, sort_key
from gen2embed.encoding.store import Store, open_store
from gen2embed.encoding.truncation import TruncationCount
from gen2embed.types import Advance, Item
from gen2embed.utils.choices import Role
from gen2embed.utils.errors import UserError
from gen2embed.utils.fingerprints import Fingerprint
from gen2embed.utils.log import log, progress
from gen2embed.utils.rank_group import ALONE, RankGroup
from gen2embed.utils.workers import Prefetch, explained, unwrap

PROGRESS_FROM = 256  # items; fewer are embedded without a bar
FEWEST_TOKENS = 64  # of a forward pass; if that does not fit, memory is short for another reason


class Model(Protocol):
    """What the engine needs of an embedder."""

    @property
    def fingerprint(self) -> Fingerprint:
        """Everything that decides an embedding."""

    @property
    def budget(self) -> int:
        """Tokens of a pass, unless a user sets them."""

    @property
    def prepare(self) -> PreparePart:
        """A function that makes chunks of items; it needs no weights, and may run in another process."""

    def embed_chunk(self, chunk: Chunk, pictures: Mapping[str, Inputs]) -> Float[Tensor, "r d"]:
        """Return the unit vectors of a chunk; `pictures` holds at least those of the chunk, by digest."""


@dataclass(frozen=True)
class Encoded:
    """The vectors of items, and what encoding them took.

    Args:
        vectors: Float32 unit vectors on the CPU, in the order of the items.
        computed: Distinct items that this process embedded.
        reused: Distinct items whose vectors were stored before.
        seconds: Wall time.
        truncated: How many distinct items lost the end of their text, stored ones included.
    """

    vectors: Float[Tensor, "n d"]
    computed: int
    reused: int
    seconds: float
    truncated: TruncationCount = field(default_factory=TruncationCount)


class EmbeddedPart(NamedTuple):
    """The vectors of a part, and the tokens that each of its truncated items needs; 0 for the others."""

    vectors: Float[np.ndarray, "n d"]
    needed: Int[np.ndarray, " n"]


@dataclass(frozen=True)
class Engine:
    """Encode items by a model.

    Args:
        batch_tokens: Tokens of a forward pass; None is 4096 on a GPU and 512 on a CPU. Halved where memory is short.
        workers: Processes that open pictures and tokenize texts; None is up to 8 on a GPU and none on a CPU.
        store: Folder of embedding stores; None keeps vectors in memory only.
        shard_size: Distinct items between two writes to the store.
        shown: Whether long work shows a progress bar.
        prefetch: Parts of at most 32 items with pictures that all workers together hold ready or prepare; None is one
            for each worker.
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
        Prefetch(self.workers or 0, self.prefetch, "engine")  # raises `UserError` for impossible numbers

    def encode(
        self, model: Model, items: Sequence[Item], role: Role, title: str = "encoding", ranks: RankGroup = ALONE
    ) -> Encoded:
        """Return the vectors of items in a role, in the order of the items.

        1. Look up which distinct items the store lacks, and sort them: texts first, then by the size of their pictures,
           equal pictures and equal beginnings side by side (`parts.sort_key`).
        2. Divide these into shards, and the shards among the ranks.
        3. Embed the shards of this rank, and write each to the store when it is complete.
        4. Wait for the shards of the other ranks, and read all vectors.

        Args:
            model: The embedder.
            items: Any items; equal ones are embedded once.
            role: The role of all of them.
            title: Stands beside the progress bar.
            ranks: The ranks that encode the same items together. All of them get all vectors.
        """
        started = time.perf_counter()
        if not items:
            return Encoded(torch.empty(0, 0), 0, 0, 0.0)
        shown = self.shown and ranks.rank == 0
        read_facts((picture for item in items for picture in item.pictures), shown=shown)

        # 1
        keys = [f"{role}:{item.key}" for item in items]
        distinct = dict(zip(keys, items, strict=True))
        store = open_store(Path(self.store) if self.store else None, model.fingerprint, ranks)
        missing = sorted((key for key in distinct if key not in store), key=lambda key: sort_key(distinct[key], key))

        # 2
        shards = [missing[start : start + self.shard_size] for start in range(0, len(missing), self.shard_size)]
        ranks.barrier()  # so that all ranks see the same shards missing, before the first is written
        own_shards = [{key: distinct[key] for key in shard} for shard in ranks.share(shards)]

        # 3
        computed = sum(map(len, own_shards))
        with progress(title, computed, shown=shown and computed >= PROGRESS_FROM) as advance:
            self._fill(store, model, own_shards, role, advance, ranks.count)

        # 4
        store.await_shards(shards, ranks)
        needed = store.needed_tokens(distinct)
        truncated = TruncationCount.count_needed(
            ((str(item), needed[key]) for key, item in distinct.items() if key in needed),
            len(distinct),
            model.fingerprint.get("max_length", 0),
        )
        if ranks.rank == 0:
            truncated.warn(f"inputs in the role {role}")
        vectors = torch.from_numpy(store.read(keys))
        return Encoded(vectors, computed, len(distinct) - len(missing), time.perf_counter() - started, truncated)

    def _fill(
        self,
        store: Store,
        model: Model,
        shards: Sequence[Mapping[str, Item]],
        role: Role,
        advance: Advance,
        processes: int,
    ) -> None:
        """Embed shards of items, and write each to the store.

        One loader has the parts of all shards, so its workers prepare the next shard while one is written.
        """
        parts = [divide(list(shard.values())) for shard in shards]
        all_parts = [[(item, role) for item in part] for shard_parts in parts for part in shard_parts]
        with explained():
            embedded = self._embed(model, all_parts, advance, processes)
            for shard, shard_parts in zip(shards, parts, strict=True):
                vectors, needed = map(np.concatenate, zip(*islice(embedded, len(shard_parts)), strict=True))
                _check_finite(list(shard.values()), vectors)
                store.write(list(shard), vectors, needed)

    def _embed(
        self, model: Model, parts: Sequence[Part], advance: Advance, processes: int = 1
    ) -> Iterator[EmbeddedPart]:
        """Yield each part's vectors, while workers prepare the next ones; `processes` share the machine."""
        tokens, done = self.batch_tokens or model.budget, 0
        while done < len(parts):
            try:
                limit = ChunkLimit(tokens)
                for prepared in load_parts(model.prepare, parts[done:], limit, self.workers, self.prefetch, processes):
                    part = _run(model, unwrap(prepared))
                    done += 1
                    advance(len(part.vectors))
                    yield part
            except Exception as error:
                # imported here, as accelerate imports most of torch and is needed only when memory runs out
                from accelerate.utils.memory import should_reduce_batch_size  # noqa: PLC0415

                if tokens <= FEWEST_TOKENS or not should_reduce_batch_size(error):
                    raise
                tokens //= 2
                log.warning("memory did not suffice; going on with engine.batch_tokens=%d", tokens)
                gc.collect()
                torch.cuda.empty_cache()


@torch.no_grad()  # not inference_mode: a picture's features may serve a training step later
def _run(model: Model, prepared: Prepared) -> EmbeddedPart:
    """Return the vectors of a prepared part, in the order of its items."""
    rows = torch.cat([model.embed_chunk(chunk, prepared.pictures) for chunk in prepared.chunks])
    vectors = rows.float().cpu()[prepared.order].numpy()
    return EmbeddedPart(vectors, np.array([prepared.needed.get(index, 0) for index in range(len(vectors))]))


def _check_finite(items: Sequence[Item], vectors: Float[np.ndarray, "n d"]) -> None:
    """Raise `UserError` with the first item whose vector is not finite."""
    (bad,) = np.nonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        raise UserError(
            f"the embedding of {items[bad[0]]} is not finite; try model.dtype=float32, and check the weights"
        )
