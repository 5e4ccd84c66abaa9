"""Remember facts of files, such as digests and sizes of pictures, so that no file is read twice.

A fact holds while the file's path, size, times of modification and of change, inode and device are as they were. Facts
are kept in `facts.sqlite` in the cache folder: $GEN2EMBED_CACHE, else gen2embed in $XDG_CACHE_HOME, else
~/.cache/gen2embed. All processes share it, and it may be removed at any time. Where it cannot be written, facts are
kept in memory.

If a file was changed less than `MARGIN` before it was read, its fact is not kept, as another change might not show in
its times. Times have a granularity (git's index takes the same care), and a page of a mapped file may be written again
without a trace until the system has written it back. On tmpfs, writes through a map never show.
"""

from __future__ import annotations

import atexit
import hashlib
import logging
import os
import sqlite3
import stat
import struct
import threading
import time
from collections.abc import Callable
from io import BufferedReader
from pathlib import Path
from typing import Literal

MARGIN = 45.0  # seconds; Linux writes mapped pages back after 35, and the coarsest times in use are FAT's, 2
PENDING = 1000  # facts that wait to be written together
WAIT = 10.0  # seconds for another process that writes
STAMP = struct.Struct("<qqqQQ")  # size, mtime_ns, ctime_ns, inode, device
FILE = "facts.sqlite"
BYTES = {"blake2b": 64, "sha256": 32}  # of a digest
SCHEMA = "CREATE TABLE IF NOT EXISTS facts (key BLOB PRIMARY KEY, stamp BLOB, value BLOB) WITHOUT ROWID"
Algorithm = Literal["blake2b", "sha256"]
log = logging.getLogger("gen2embed")  # without `gen2embed.utils.log`, which loads libraries


def digest_of(path: Path, algorithm: Algorithm = "blake2b") -> str:
    """Return the digest of a file's content in hexadecimal."""
    read = lambda opened: hashlib.file_digest(opened, algorithm).digest()  # noqa: E731
    return remember(path, algorithm, BYTES[algorithm], read).hex()


def remember(path: Path, kind: str, size: int, read: Callable[[BufferedReader], bytes]) -> bytes:
    """Return a fact of a file: the kept one if the file is unchanged, else what `read` returns.

    Args:
        path: The file.
        kind: The name of the fact.
        size: The bytes of the fact; a kept fact of another size is damaged, and is read again.
        read: Returns the fact of an open file.
    """
    stamp, when = _stamp(path), time.time()
    if (value := _CACHE.get(path, kind, stamp)) is None or len(value) != size:
        with path.open("rb") as opened:
            value = read(opened)
        _CACHE.put(path, kind, stamp, value, when)
    return value


def keep_facts() -> None:
    """Write the facts that wait to be written, for other processes."""
    _CACHE.flush()


def cache_folder() -> Path:
    """Return the folder of the cache, which need not exist."""
    if folder := os.environ.get("GEN2EMBED_CACHE"):
        return Path(folder).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gen2embed"


class _Cache:
    """Facts by file and kind: in memory, and in a database that other processes share."""

    def __init__(self) -> None:
        self.known: dict[bytes, bytes] = {}  # key -> stamp and value
        self.connection: sqlite3.Connection | None = None
        self.inherited: list[sqlite3.Connection | None] = []
        self.reset()

    def reset(self) -> None:
        """Start without the parent process's lock and connection, after a fork.

        The connection is not closed: that could roll back what the parent is writing.
        """
        self.inherited.append(self.connection)
        self.lock = threading.Lock()
        self.pending: dict[bytes, bytes] = {}
        self.connection, self.usable = None, True

    def get(self, path: Path, kind: str, stamp: bytes) -> bytes | None:
        key = _key(path, kind)
        with self.lock:
            record = self.known.get(key) or self._select(key)
            if record is None or record[: STAMP.size] != stamp:
                return None
            self.known[key] = record
            return record[STAMP.size :]

    def put(self, path: Path, kind: str, stamp: bytes, value: bytes, when: float) -> None:
        """Keep a value that was read at `when`, unless the file was changed right before that, or since."""
        changed = STAMP.unpack(stamp)[2] / 1e9
        if changed > when - MARGIN or _stamp(path) != stamp:
            return
        key = _key(path, kind)
        with self.lock:
            self.known[key] = self.pending[key] = stamp + value
            full = len(self.pending) >= PENDING
        if full:
            self.flush()

    def flush(self) -> None:
        with self.lock:
            rows = [(key, record[: STAMP.size], record[STAMP.size :]) for key, record in self.pending.items()]
            if not rows or (connection := self._connect()) is None:
                return
            try:
                with connection:
                    connection.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?, ?)", rows)
            except sqlite3.Error as error:
                self._give_up(error)
            self.pending.clear()

    def _select(self, key: bytes) -> bytes | None:
        if (connection := self._connect()) is None:
            return None
        try:
            row = connection.execute("SELECT stamp, value FROM facts WHERE key = ?", (key,)).fetchone()
        except sqlite3.Error as error:
            self._give_up(error)
            return None
        return row[0] + row[1] if row and all(isinstance(part, bytes) for part in row) else None

    def _connect(self) -> sqlite3.Connection | None:
        if self.connection is None and self.usable:
            try:
                folder = cache_folder()
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                self.connection = sqlite3.connect(folder / FILE, WAIT, check_same_thread=False)
                self.connection.execute(SCHEMA)
            except (OSError, RuntimeError, sqlite3.Error) as error:  # RuntimeError: there is no home folder
                self._give_up(error)
        return self.connection

    def _give_up(self, error: Exception) -> None:
        if self.usable:
            broken = isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError)
            remove = f"remove {cache_folder() / FILE}, or " if broken else ""
            remedy = f"{remove}set GEN2EMBED_CACHE to a folder for them"
            log.info("digests are not kept for the next run (%s); %s", error, remedy)
        self.connection, self.usable = None, False


def _key(path: Path, kind: str) -> bytes:
    return hashlib.blake2b(os.fsencode(path.absolute()) + b"\0" + kind.encode(), digest_size=16).digest()


def _stamp(path: Path) -> bytes:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # a pipe would wait for ever
        raise OSError("it is not a regular file")
    return STAMP.pack(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev)


_CACHE = _Cache()
os.register_at_fork(after_in_child=_CACHE.reset)
atexit.register(_CACHE.flush)
