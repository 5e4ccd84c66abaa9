"""Stores of embeddings: in memory, or on disk, where vectors are reused only for the very same embedding.

    root/<fingerprint digest>/manifest.json      the fingerprint, spelled out
                              <name>.npy         a shard: float32 (n, d)
                              <name>.cut.npy     which of its rows were cut at max_length, and the tokens that they
                                                 need, (k, 2); absent if none was
                              <name>.ids.npy     the keys of its rows; its presence makes the shard complete

Every file is written to a temporary name and renamed, so a killed run leaves complete shards only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
from jaxtyping import Float

from gen2embed.utils.errors import UserError
from gen2embed.utils.files import write_atomic
from gen2embed.utils.fingerprints import (
    Fingerprint,
    claim_store,
    fingerprint_digest,
    log_differences,
)
from gen2embed.utils.rank_group import RankGroup


class Store(Protocol):
    """Vectors of items by key, written in shards, and the tokens that truncated items need."""

    def __contains__(self, key: str) -> bool: ...

    def write(self, keys: Sequence[str], vectors: np.ndarray, needed: np.ndarray) -> None:
        """Add a shard.

        Args:
            keys: The keys of n items.
            vectors: Their vectors, float32 (n, d).
            needed: The tokens (n,) that each truncated item needs; 0 for the others.
        """

    def await_shards(self, shards: Sequence[Sequence[str]], ranks: RankGroup) -> None:
        """Wait for the shards that other ranks write."""

    def read(self, keys: Sequence[str]) -> Float[np.ndarray, "n d"]:
        """Return the vectors of items, in the order of their keys."""

    def needed_tokens(self, keys: Iterable[str]) -> dict[str, int]:
        """Return the tokens that items need, of those that were truncated when they were embedded."""


def open_store(root: Path | None, fingerprint: Fingerprint, ranks: RankGroup) -> Store:
    """Return the store of a fingerprint below `root`, or one in memory if `root` is None.

    Raises:
        UserError: For several ranks without `root`, as they share vectors through files.
    """
    if root is not None:
        return EmbeddingStore.under(root, fingerprint)
    if ranks.count > 1:
        raise UserError("several ranks share embeddings through the store, and there is none; set engine.store")
    return MemoryStore()


class MemoryStore:
    """Vectors by key that live as long as this object."""

    def __init__(self) -> None:
        self._vectors: dict[str, np.ndarray] = {}
        self._needed: dict[str, int] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._vectors

    def write(self, keys: Sequence[str], vectors: np.ndarray, needed: np.ndarray) -> None:
        """Add a shard; see `Store`."""
        self._vectors |= zip(keys, vectors, strict=True)
        self._needed |= {key: tokens for key, tokens in zip(keys, needed.tolist(), strict=True) if tokens}

    def await_shards(self, shards: Sequence[Sequence[str]], ranks: RankGroup) -> None:
        """Return at once, as no other rank writes to this memory."""

    def read(self, keys: Sequence[str]) -> Float[np.ndarray, "n d"]:
        """Return the vectors of items, in the order of their keys."""
        return np.stack([self._vectors[key] for key in keys])

    def needed_tokens(self, keys: Iterable[str]) -> dict[str, int]:
        """Return the tokens that truncated items need."""
        return {key: self._needed[key] for key in keys if key in self._needed}


class EmbeddingStore:
    """Vectors by key in files, under one fingerprint."""

    def __init__(self, folder: Path, fingerprint: Fingerprint) -> None:
        """Open or create the store in `folder`; raises `UserError` if it holds another fingerprint's vectors."""
        self.folder = folder
        claim_store(folder, fingerprint, "embeddings")
        self._rows: dict[bytes, tuple[str, int]] = {}
        for file in sorted(folder.glob("*.ids.npy")):
            self._index(file.name.removesuffix(".ids.npy"), np.load(file, allow_pickle=False))

    @classmethod
    def under(cls, root: Path, fingerprint: Fingerprint) -> EmbeddingStore:
        """Return the store of `fingerprint` below `root`; for a new one, log why the most similar is not reused."""
        folder = root / fingerprint_digest(fingerprint)
        log_differences(folder, fingerprint, "embeddings")
        return cls(folder, fingerprint)

    def __contains__(self, key: str) -> bool:
        return key.encode() in self._rows

    def __len__(self) -> int:
        return len(self._rows)

    def write(self, keys: Sequence[str], vectors: np.ndarray, needed: np.ndarray | None = None) -> None:
        """Add a shard; see `Store`."""
        ids, name = _ids_and_name(keys)
        arrays = {f"{name}.npy": vectors.astype(np.float32)}
        if needed is not None and needed.any():
            (rows,) = needed.nonzero()
            arrays[f"{name}.cut.npy"] = np.stack([rows, needed[rows]], axis=1)
        for file, array in {**arrays, f"{name}.ids.npy": ids}.items():  # keys last: they make the shard complete
            write_atomic(self.folder / file, partial(np.save, arr=array, allow_pickle=False))
        self._index(name, ids)

    def await_shards(self, shards: Sequence[Sequence[str]], ranks: RankGroup) -> None:
        """Wait for the shards that other ranks write."""
        names = sorted({_ids_and_name(shard)[1] for shard in shards})
        files = [self.folder / f"{name}.ids.npy" for name in names]
        ranks.wait(files)
        for name, file in zip(names, files, strict=True):
            self._index(name, np.load(file, allow_pickle=False))

    def read(self, keys: Sequence[str]) -> Float[np.ndarray, "n d"]:
        """Return the vectors of items, float32, in the order of their keys; opens each shard once."""
        shards: dict[str, list[tuple[int, int]]] = {}
        for position, key in enumerate(keys):
            name, row = self._rows[key.encode()]
            shards.setdefault(name, []).append((position, row))
        vectors: np.ndarray | None = None
        for name, pairs in shards.items():
            shard = np.load(self.folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
            if vectors is None:
                vectors = np.empty((len(keys), shard.shape[1]), np.float32)
            positions, rows = np.array(pairs).T
            vectors[positions] = shard[rows]
        if vectors is None:
            raise ValueError("no keys to read")
        return vectors

    def needed_tokens(self, keys: Iterable[str]) -> dict[str, int]:
        """Return the tokens that truncated items need."""
        shards: dict[str, dict[int, int]] = {}
        needed = {}
        for key in keys:
            name, row = self._rows[key.encode()]
            if name not in shards:
                file = self.folder / f"{name}.cut.npy"
                shards[name] = dict(np.load(file, allow_pickle=False).tolist()) if file.is_file() else {}
            if row in shards[name]:
                needed[key] = shards[name][row]
        return needed

    def _index(self, name: str, ids: np.ndarray) -> None:
        self._rows |= {key: (name, row) for row, key in enumerate(ids.tolist())}


def _ids_and_name(keys: Sequence[str]) -> tuple[np.ndarray, str]:
    """Return a shard's keys as they are stored, and its name, which follows from them."""
    ids = np.array([key.encode() for key in keys])
    return ids, hashlib.blake2b(ids.tobytes(), digest_size=8).hexdigest()
