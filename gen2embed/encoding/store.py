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
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from gen2embed.types import UserError
from gen2embed.utils.files import write_atomic
from gen2embed.utils.log import log
from gen2embed.utils.rank_group import Peers

Fingerprint = Mapping[str, Any]
MANIFEST = "manifest.json"


def digest(fingerprint: Fingerprint) -> str:
    canonical = json.dumps(fingerprint, sort_keys=True, default=str)
    return hashlib.blake2b(canonical.encode(), digest_size=8).hexdigest()


def differences(there: Fingerprint, here: Fingerprint) -> list[str]:
    """What differs, one line a setting, nested keys dotted."""
    a, b = dict(flat(there)), dict(flat(here))
    said = {True: repr, False: lambda _: "nothing"}
    return [
        f"{key} is {said[key in a](a.get(key))} there and {said[key in b](b.get(key))} here"
        for key in sorted(a | b)
        if key not in a or key not in b or a[key] != b[key]
    ]


def flat(mapping: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Values by their keys, nested ones dotted."""
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def without(mapping: Mapping[str, Any], keys: Collection[str], prefix: str = "") -> dict[str, Any]:
    """A mapping without what lies at some keys, nested ones dotted."""
    return {
        key: without(value, keys, f"{prefix}{key}.") if isinstance(value, Mapping) else value
        for key, value in mapping.items()
        if f"{prefix}{key}" not in keys
    }


def _plain(fingerprint: Fingerprint) -> Fingerprint:
    """As it reads back from JSON."""
    return json.loads(json.dumps(fingerprint, default=str))


def _read(manifest: Path) -> Fingerprint:
    try:
        return dict(json.loads(manifest.read_text()))
    except (ValueError, TypeError):
        raise UserError(f"{manifest} is not that of a store; name another folder") from None


def say_what_differs(folder: Path, fingerprint: Fingerprint, what: str) -> None:
    """Before `folder` is made: why the most alike beside it is not reused. what: is kept there."""
    if folder.exists():
        return
    manifests = folder.parent.glob(f"*/{MANIFEST}")
    others = {path.parent: differences(_read(path), _plain(fingerprint)) for path in manifests}
    if others:
        closest = min(others, key=lambda other: (len(others[other]), other))
        log.info("no %s are reused; %s differs: %s", what, closest, "; ".join(others[closest]))


def claim(folder: Path, fingerprint: Fingerprint, what: str) -> None:
    """Make `folder` that of `fingerprint`; raises `UserError` if it is another's. what: is kept there."""
    manifest = folder / MANIFEST
    if not manifest.is_file():
        if foreign := sorted(path.name for path in folder.glob("[!.]*")):
            raise UserError(f"{folder} holds {foreign[0]} and no {what} of ours; name another folder")
        spelled = json.dumps(fingerprint, indent=2, sort_keys=True, default=str).encode()
        write_atomic(manifest, lambda file: file.write(spelled))
    elif differing := differences(_read(manifest), _plain(fingerprint)):
        raise UserError(
            f"the {what} in {folder} were made otherwise and are not reused: {'; '.join(differing)}; name another "
            "folder, or remove this one"
        )


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

    def await_shards(self, shards: Sequence[Sequence[str]], peers: Peers) -> None:
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
