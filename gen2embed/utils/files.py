"""Write files and folders atomically, rename them durably, and explain what the system refuses."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import stat
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from gen2embed.utils.facts import digest_of

LONGEST_NAME = 255  # bytes of the name of a file or folder, on the usual file systems
REFUSALS = {  # what the user can do, by the error of the system
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "free space there, or raise the limit"),
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), "allow it, or name another folder"),
    **dict.fromkeys((errno.ENAMETOOLONG, errno.ELOOP, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY), "name another one"),
    **dict.fromkeys((errno.ENOENT, errno.ENOTDIR, errno.ESTALE, errno.EIO), "bring it back, or mount its disk again"),
}


def is_hub_id(path: str | Path) -> bool:
    """Return whether `path` has the form of a repository on the hub."""
    return isinstance(path, str) and re.fullmatch(r"\w[\w.-]*/[\w.-]+", path) is not None


def is_remote(path: str | Path) -> bool:
    """Return whether `path` is a repository on the hub: it has the form, and no local path has that name."""
    return is_hub_id(path) and not Path(path).exists()


def write_atomic(
    path: Path, write: Callable[[IO[bytes]], object], before: Callable[[Path], object] = lambda _: None
) -> None:
    """Write a file under a temporary name beside its own, then rename it; the disk has it when this returns.

    A link stays, and its target gets the content. A file that is replaced hands on its mode.

    Args:
        path: The file.
        write: Writes the content to an open file.
        before: Called with the temporary file before it is renamed.

    Raises:
        OSError: For a folder, which is never replaced, and for what the system refuses, with the path.
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


def write_json(
    path: Path, value: Any, *, sort_keys: bool = False, write_file: Callable[..., object] = write_atomic
) -> None:
    """Write a value as JSON; what JSON has no type for is written as text.

    Args:
        path: The file.
        value: Plain values.
        sort_keys: Whether to sort the keys of mappings.
        write_file: Writes the file, as `write_atomic` does.
    """
    text = json.dumps(value, indent=2, sort_keys=sort_keys, default=str)
    write_file(path, write=lambda file: file.write(text.encode()))


def follow(path: Path) -> Path:
    """Return the target of a link, which need not exist; any other path unchanged."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def temporary_name(path: Path) -> Path:
    """Return a new hidden name beside `path`, within the length that file systems take."""
    longest = LONGEST_NAME - len("..") - 32
    return path.with_name(f".{os.fsencode(path.name)[:longest].decode(errors='ignore')}.{uuid.uuid4().hex}")


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Raise what the system refuses inside of the context, such as a full disk, as an `OSError` that names `path`.

    The system's own error has a temporary name or none, and libraries in Rust raise other types.
    """
    try:
        yield
    except Exception as error:
        if number := _error_number(error):
            raise OSError(number, os.strerror(number), str(path)) from error
        raise


def _error_number(error: Exception) -> int | None:
    """Return the `errno` of an error of the system; None for any other error."""
    if isinstance(error, OSError) and error.errno:
        return error.errno
    if isinstance(error, OSError) and re.fullmatch(r"\d+ requested and \d+ written", str(error)):  # numpy's
        return errno.ENOSPC
    number = re.search(r"\(os error (\d+)\)", str(error))
    return int(number[1]) if number else None


def refusal(error: BaseException) -> str | None:
    """Return the message, with the remedy, for what the system refused; None for any other error."""
    if not isinstance(error, OSError) or error.errno not in REFUSALS:
        return None
    where = Path(error.filename).absolute() if error.filename else "a file of the run"
    return (
        f"{where}: {error.strerror}; {REFUSALS[error.errno]}, and give the same command again: complete files stay, "
        "and it goes on from there"
    )


def put_in_place(unfinished: Path, path: Path) -> None:
    """Rename a file or a folder on the same disk, durably; it may replace a file or an empty folder only."""
    for written in [unfinished, *unfinished.rglob("*")]:
        _fsync(written)
    unfinished.replace(path)
    _fsync(path.parent)


def apply_umask(folder: Path) -> None:
    """Give all files below a new folder the mode that the umask asks for; some libraries set another."""
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
    """Return a digest of the content of files, in the order of their paths."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(paths):
        digest.update(bytes.fromhex(digest_of(path)))
    return digest.hexdigest()
