"""The embedding store: vectors on disk that are reused only for the very same embedding.

    root/<fingerprint digest>/manifest.json      the fingerprint, spelled out
                              <name>.npy         a shard: float32 (n, d)
                              <name>.cut.npy     its rows that were cut at max_length and the tokens that they
                                                 need, (k, 2); not there if none was
                              <name>.ids.npy     the keys of its rows; its presence makes the shard complete

Every file is written to a temporary name and renamed, so a run that was killed leaves whole shards only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from gen2embed.utils.files import write_atomic
from gen2embed.utils.fingerprints import (
    Fingerprint,
    claim,
    digest,
    say_what_differs,
)
from gen2embed.utils.rank_group import RankGroup


class EmbeddingStore:
    """Vectors by key, under one fingerprint."""

    def __init__(self, folder: Path, fingerprint: Fingerprint) -> None:
        """Open or create the store in `folder`; raises `UserError` if it holds another fingerprint's vectors."""
        self.folder = folder
        claim(folder, fingerprint, "embeddings")
        self._rows: dict[bytes, tuple[str, int]] = {}
        for ids in sorted(folder.glob("*.ids.npy")):
            self._index(ids.name.removesuffix(".ids.npy"), np.load(ids, allow_pickle=False))

    @classmethod
    def under(cls, root: Path, fingerprint: Fingerprint) -> EmbeddingStore:
        """The store of `fingerprint` below `root`; for a new one, says why the most alike there is not reused."""
        folder = root / digest(fingerprint)
        say_what_differs(folder, fingerprint, "embeddings")
        return cls(folder, fingerprint)

    def __contains__(self, key: str) -> bool:
        return key.encode() in self._rows

    def __len__(self) -> int:
        return len(self._rows)

    def write(self, keys: Sequence[str], vectors: np.ndarray, lengths: np.ndarray | None = None) -> None:
        """Add a shard of float32 vectors (n, d), one a key; lengths: tokens that cut items need, 0 for others."""
        ids, name = _ids(keys)
        arrays = {f"{name}.npy": vectors.astype(np.float32)}
        if lengths is not None and lengths.any():
            (rows,) = lengths.nonzero()
            arrays[f"{name}.cut.npy"] = np.stack([rows, lengths[rows]], axis=1)
        for path, array in {**arrays, f"{name}.ids.npy": ids}.items():  # keys last
            write_atomic(self.folder / path, partial(np.save, arr=array, allow_pickle=False))
        self._index(name, ids)

    def needed_tokens(self, keys: Iterable[str]) -> dict[str, int]:
        """Return the tokens that items need, of those that were cut at `max_length` when they were embedded."""
        cut: dict[str, dict[int, int]] = {}
        needed = {}
        for key in keys:
            name, row = self._rows[key.encode()]
            if name not in cut:
                file = self.folder / f"{name}.cut.npy"
                cut[name] = dict(np.load(file, allow_pickle=False).tolist()) if file.is_file() else {}
            if row in cut[name]:
                needed[key] = cut[name][row]
        return needed

    def await_shards(self, shards: Sequence[Sequence[str]], peers: RankGroup) -> None:
        """Wait for shards that other ranks write."""
        names = {_ids(shard)[1] for shard in shards}
        peers.wait([self._file(name) for name in sorted(names)])
        for name in names:
            self._index(name, np.load(self._file(name), allow_pickle=False))

    def read(self, keys: Sequence[str]) -> np.ndarray:
        """The vectors of `keys`, float32 (n, d), each shard opened once."""
        shards: dict[str, list[tuple[int, int]]] = {}
        for position, key in enumerate(keys):
            name, row = self._rows[key.encode()]
            shards.setdefault(name, []).append((position, row))
        out: np.ndarray | None = None
        for name, pairs in shards.items():
            shard = np.load(self.folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
            if out is None:
                out = np.empty((len(keys), shard.shape[1]), np.float32)
            positions, rows = np.array(pairs).T
            out[positions] = shard[rows]
        if out is None:
            raise ValueError("no keys to read")
        return out

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.ids.npy"

    def _index(self, name: str, ids: np.ndarray) -> None:
        self._rows |= {key: (name, row) for row, key in enumerate(ids.tolist())}


def _ids(keys: Sequence[str]) -> tuple[np.ndarray, str]:
    """A shard's keys as they are stored, and its name."""
    ids = np.array([key.encode() for key in keys])
    return ids, hashlib.blake2b(ids.tobytes(), digest_size=8).hexdigest()
