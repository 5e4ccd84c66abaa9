"""Files and folders: written whole or not at all, and known by their content."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TypeVar

Written = TypeVar("Written")


def is_hub_id(path: str | Path) -> bool:
    """Whether `path` can be a repository on the hub."""
    return isinstance(path, str) and re.fullmatch(r"\w[\w.-]*/[\w.-]+", path) is not None


def is_remote(path: str | Path) -> bool:
    """Whether `path` is a repository on the hub: it can be, and nothing here has that name."""
    return is_hub_id(path) and not Path(path).exists()


def write_atomic(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file under a temporary name beside its own, then rename it; the disk has it when this returns."""
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    with named(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with unfinished.open("xb") as file:
                write(file)
                file.flush()
            put_in_place(unfinished, path)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Inside, what the system refuses, such as more of a full disk, is an `OSError` that names `path`.

    The system's own error has a temporary name or none, and Rust's libraries raise errors of their own.
    """
    try:
        yield
    except Exception as error:
        said = re.search(r"\(os error (\d+)\)", str(error))
        if number := error.errno if isinstance(error, OSError) else said and int(said[1]):
            raise OSError(number, os.strerror(number), str(path)) from error
        raise


def put_in_place(unfinished: Path, path: Path) -> None:
    """Rename a file or folder on the same disk. It is written there before, and its name is afterwards."""
    for written in [unfinished, *unfinished.rglob("*")]:
        _fsync(written)
    if path.is_dir():
        shutil.rmtree(path)
    unfinished.replace(path)
    _fsync(path.parent)


def _fsync(path: Path) -> None:
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def is_occupied(folder: Path) -> bool:
    """Whether there is anything but an empty folder."""
    return folder.exists() and (not folder.is_dir() or any(folder.iterdir()))


def replace_folder(path: Path, write: Callable[[Path], Written]) -> Written:
    """Write a folder under a temporary name beside its own, then rename it, in place of what was there.

    Returns what `write` does.
    """
    with named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as unfinished:
            written = Path(unfinished) / path.name
            written.mkdir()
            result = write(written)
            put_in_place(written, path)
            return result


def digest_of(path: Path) -> str:
    """Return the BLAKE2b digest of a file's content, 128 hexadecimal digits."""
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "blake2b").hexdigest()


def digest_files(paths: Iterable[Path]) -> str:
    """A digest of the content of files, in the order of their paths."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(paths):
        digest.update(bytes.fromhex(digest_of(path)))
    return digest.hexdigest()
