"""Files and folders: written whole or not at all, and known by their content."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from gen2embed.utils.facts import digest_of

LONGEST_NAME = 255  # bytes of the name of a file or folder, on the usual file systems
REFUSALS = {  # by the system, and what the user can do
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "free space there, or raise the limit"),
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), "allow it, or name another folder"),
    **dict.fromkeys((errno.ENAMETOOLONG, errno.ELOOP, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY), "name another one"),
    **dict.fromkeys((errno.ENOENT, errno.ENOTDIR, errno.ESTALE, errno.EIO), "bring it back, or mount its disk again"),
}


def is_hub_id(path: str | Path) -> bool:
    """Whether `path` can be a repository on the hub."""
    return isinstance(path, str) and re.fullmatch(r"\w[\w.-]*/[\w.-]+", path) is not None


def is_remote(path: str | Path) -> bool:
    """Whether `path` is a repository on the hub: it can be, and nothing here has that name."""
    return is_hub_id(path) and not Path(path).exists()


def write_atomic(
    path: Path, write: Callable[[IO[bytes]], object], before: Callable[[Path], object] = lambda _: None
) -> None:
    """Write a file under a temporary name beside its own, then rename it; the disk has it when this returns.

    A link stays, and its target gets the content; a file that is replaced hands on its mode. A folder is never
    replaced: that is an `OSError`.

    Args:
        path: The file.
        write: Writes the content to an open file.
        before: Called with the temporary file before it is renamed.
    """
    with named(path):
        target = follow(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished = temporary_name(target)
        try:
            with unfinished.open("xb") as file:
                write(file)
                file.flush()
            if target.is_file():
                unfinished.chmod(stat.S_IMODE(target.stat().st_mode))
            before(unfinished)
            put_in_place(unfinished, target)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise


def follow(path: Path) -> Path:
    """Return what a link leads to, which may not exist; any other path as it is."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def temporary_name(path: Path) -> Path:
    """Return a new hidden name beside `path`, within the length that file systems take."""
    longest = LONGEST_NAME - len("..") - 32
    return path.with_name(f".{os.fsencode(path.name)[:longest].decode(errors='ignore')}.{uuid.uuid4().hex}")


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Inside, what the system refuses, such as more of a full disk, is an `OSError` that names `path`.

    The system's own error has a temporary name or none, and Rust's libraries raise errors of their own.
    """
    try:
        yield
    except Exception as error:
        if number := _error_number(error):
            raise OSError(number, os.strerror(number), str(path)) from error
        raise


def _error_number(error: Exception) -> int | None:
    """Return the system's number of an error; None for one that is not the system's."""
    if isinstance(error, OSError) and error.errno:
        return error.errno
    if isinstance(error, OSError) and re.fullmatch(r"\d+ requested and \d+ written", str(error)):  # numpy's
        return errno.ENOSPC
    number = re.search(r"\(os error (\d+)\)", str(error))
    return int(number[1]) if number else None


def refusal(error: BaseException) -> str | None:
    """Return what the system did not let a run do, and the remedy; None for any other error."""
    if not isinstance(error, OSError) or error.errno not in REFUSALS:
        return None
    where = Path(error.filename).absolute() if error.filename else "a file of the run"
    return (
        f"{where}: {error.strerror}; {REFUSALS[error.errno]}, and give the same command again: what is whole stays, "
        "and it goes on from there"
    )


def put_in_place(unfinished: Path, path: Path) -> None:
    """Rename a file or a folder on the same disk, durably. It replaces a file or an empty folder, and nothing else."""
    for written in [unfinished, *unfinished.rglob("*")]:
        _fsync(written)
    unfinished.replace(path)
    _fsync(path.parent)


def apply_umask(folder: Path) -> None:
    """Give all files below a new folder the mode that the umask asks for, which libraries override for their own."""
    mode = stat.S_IMODE(folder.stat().st_mode)
    for path in folder.rglob("*"):
        if not path.is_symlink():
            path.chmod(mode if path.is_dir() else mode & 0o666)


def _fsync(path: Path) -> None:
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def digest_files(paths: Iterable[Path]) -> str:
    """A digest of the content of files, in the order of their paths."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(paths):
        digest.update(bytes.fromhex(digest_of(path)))
    return digest.hexdigest()
