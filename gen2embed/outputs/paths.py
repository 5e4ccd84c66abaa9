"""Decide which files and folders a command or a run may replace: those that it wrote, and no others.

A record beside an output names the command that wrote it (`record.py`). An output is replaced only while its content
is what the same command wrote. One that was edited, copied or written by somebody else is refused, before work begins
and again before it would be replaced. Links stay, and their targets are written.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import IO, TypeVar

from gen2embed.outputs.record import RUN, check_record, is_written, read_record, record
from gen2embed.utils.errors import UserError
from gen2embed.utils.files import apply_umask, follow, named, put_in_place, write_atomic

Written = TypeVar("Written")
# The files of a saved adapter, for runs of earlier versions, which left no record.
OF_AN_ADAPTER = re.compile(
    r"gen2embed\.json|README\.md|adapter_(config\.json|model\.safetensors)|chat_template\.(jinja|json)|merges\.txt|"
    r"(processor|preprocessor|video_preprocessor|tokenizer)_config\.json|(tokenizer|vocab|added_tokens|"
    r"special_tokens_map)\.json|tokenizer\.model"
)


# --- a file ---------------------------------------------------------------------------------------------------------


def check_file(path: str | Path, by: str, inputs: Iterable[Path] = (), own: Iterable[Path] = ()) -> Path:
    """Return the path of an output, with `~` expanded, once it is known that `write_file` may write it.

    Args:
        path: What the user named.
        by: The command.
        inputs: Files and folders that the command reads; the output may be none of them.
        own: Files that the command may replace although no record names them.

    Raises:
        UserError: For a folder, an input, a file that `by` did not write, and a folder that does not exist.
        OSError: For what the system refuses, with the path.
    """
    output = expand(path)
    target = resolve_link(output)
    if target.is_dir() or str(path).endswith(os.sep):
        raise UserError(f"the output {path} is a folder, which a file does not replace; name a file")
    _refuse_inputs(output, target, inputs)
    if target not in map(follow, own):
        _refuse_foreign(output, target, by)
    check_writable(target.parent)
    check_record(target.parent)
    return output


def write_file(path: Path, by: str, write: Callable[[IO[bytes]], object], own: Iterable[Path] = ()) -> None:
    """Write an output atomically, and record it; it may replace a file that `by` wrote.

    Raises:
        UserError: As `check_file` does, for a file that was written since.
    """
    target = resolve_link(path)
    if target not in map(follow, own):
        _refuse_foreign(path, target, by)
    write_atomic(target, write, before=partial(record, target, by))


def _refuse_foreign(output: Path, target: Path, by: str) -> None:
    if not target.exists():
        return
    if not target.is_file():
        raise UserError(f"the output {output} is not a regular file; name another one")
    if not is_written(target, by):
        raise UserError(
            f"the output {output} exists, and is not what `{by}` wrote there; name another one, or move it away"
        )


# --- a folder -------------------------------------------------------------------------------------------------------


def check_folder(path: str | Path, inputs: Iterable[Path] = (), by: str | None = None) -> Path:
    """Return the path of an output folder, with `~` expanded, once it is known that `replace_folder` may write it.

    Args:
        path: What the user named.
        inputs: Files and folders that the command reads; the output may neither be, hold nor lie in one of them.
        by: The command that may replace a folder which it wrote; None may replace an empty folder only.

    Raises:
        UserError: For a file, an input, and a folder that holds something that `by` did not write.
        OSError: For what the system refuses, with the path.
    """
    output = expand(path)
    target = resolve_link(output)
    if target.exists() and not target.is_dir():
        raise UserError(f"the output {output} is a file, and a folder is written; name a folder")
    _refuse_inputs(output, target, inputs, around=True)
    _refuse_occupied(output, target, by)
    if target.exists() and (target.is_mount() or target.samefile(Path.cwd())):
        raise UserError(f"the output {output} cannot be put in place as a whole; name a new folder in it")
    check_writable(target.parent)
    if by is not None:
        check_record(target.parent)
    return output


def replace_folder(path: Path, write: Callable[[Path], Written], by: str | None = RUN) -> Written:
    """Write a folder under a temporary name beside its own, then rename it; return what `write` does.

    It replaces an empty folder, or one whose files are all as `by` wrote them; with None, an empty folder only. Files
    that libraries write get the modes that the umask asks for.

    Raises:
        UserError: For a folder that holds anything else.
    """
    with named(path):
        target = resolve_link(path)
        _refuse_occupied(path, target, by)
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name[:100]}.") as unfinished:
            written = Path(unfinished) / target.name
            written.mkdir()
            result = write(written)
            apply_umask(written)
            if by is not None:
                record(target, by, written)
            _refuse_occupied(path, target, by)
            _exchange(written, target, Path(unfinished) / "replaced")
            return result


def _exchange(written: Path, target: Path, replaced: Path) -> None:
    """Put a folder in the place of another, which is moved to `replaced`, or back if that fails."""
    try:
        if target.is_dir():
            written.chmod(stat.S_IMODE(target.stat().st_mode))
            target.rename(replaced)
        put_in_place(written, target)
    except BaseException:
        if replaced.is_dir() and not target.exists():
            replaced.rename(target)
        raise


def remove_folder(path: Path, by: str) -> None:
    """Remove a folder whose files are all as `by` wrote them; raises `UserError` for any other."""
    _refuse_occupied(path, path, by)
    shutil.rmtree(path)


def record_folder(path: Path, by: str) -> None:
    """Record a folder that was not written by `replace_folder`, as it is now."""
    record(path, by, path)


def _refuse_occupied(output: Path, target: Path, by: str | None) -> None:
    if not target.is_dir():
        if target.exists():
            raise UserError(f"the output {output} is a file, and a folder is written; name a folder")
        return
    first = next(iter(sorted(target.iterdir())), None)
    if first is None or (by is not None and (is_written(target, by) or _is_adapter(target))):
        return
    raise UserError(f"the output {output} is not empty: it holds {first.name}; name a new folder, or move it away")


def _is_adapter(folder: Path) -> bool:
    """Return whether a folder that no record names holds the files of a saved adapter, and nothing else."""
    names = [path.name for path in folder.iterdir()]
    recorded = any(line["name"] == folder.name for line in read_record(folder.parent))
    return not recorded and "gen2embed.json" in names and all(map(OF_AN_ADAPTER.fullmatch, names))


# --- places ---------------------------------------------------------------------------------------------------------


def check_writable(folder: Path) -> None:
    """Raise `UserError` or `OSError`, with the path, unless files can be made in `folder`, which need not exist."""
    for place in (folder, *folder.absolute().parents):
        with named(place):
            if not os.path.lexists(place):
                continue
        if not place.is_dir():
            kind = "a link that leads nowhere" if place.is_symlink() and not place.exists() else "a file"
            raise UserError(f"{folder} cannot be a folder: {place} is {kind}; name another one")
        with named(folder):
            _make_file(place)
            return


def _make_file(folder: Path) -> None:
    """Make a file without a name in a folder, or one that is removed at once; raise `OSError` where it is refused."""
    try:
        os.close(os.open(folder, os.O_WRONLY | os.O_TMPFILE, 0o600))
    except (AttributeError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
            raise
        opened, name = tempfile.mkstemp(dir=folder)
        os.close(opened)
        Path(name).unlink()


def check_store(path: str | Path) -> Path:
    """Return a folder to which files of our own names are added, with `~` expanded; raises as `check_writable`."""
    check_writable(store := expand(path))
    return store


def expand(path: str | Path) -> Path:
    """Return a path in which `~` is the home folder."""
    return Path(path).expanduser() if str(path) == "~" or str(path).startswith("~/") else Path(path)


def resolve_link(path: Path) -> Path:
    """Return what a path leads to; raises `UserError` for a link to a place that does not exist."""
    with named(path):
        try:
            path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return path
    target = follow(path)
    if target != path and not target.parent.is_dir():
        raise UserError(f"the link {path} leads to {target}, whose folder does not exist; make it, or remove the link")
    if target.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    return target


def _refuse_inputs(output: Path, target: Path, inputs: Iterable[Path], *, around: bool = False) -> None:
    """Raise `UserError` if an output is an input, or, with `around`, holds one or lies in one."""
    for path in inputs:
        if not path.exists():
            continue
        source, destination = path.resolve(), target.resolve()
        same = target.exists() and target.samefile(path)
        if same or (around and (source.is_relative_to(destination) or destination.is_relative_to(source))):
            raise UserError(f"the output {output} would replace or change the input {path}; name another one")
