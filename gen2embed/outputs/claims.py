"""Claim the folder of a run: it must be new, empty, or that of an earlier run, and no other run may write there."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import sys
from collections.abc import Collection
from pathlib import Path

from gen2embed.outputs.paths import check_writable, expand, resolve_link
from gen2embed.outputs.record import RECORD, append, is_record, read_record
from gen2embed.utils.errors import UserError
from gen2embed.utils.files import named
from gen2embed.utils.log import log

if sys.platform != "win32":
    import fcntl

# Files that may lie in a run's folder before the run: logs of a scheduler or a shell, and files of operating systems.
HARMLESS = re.compile(
    r".*\.(log|out|err|[oe]\d+)|stdout|stderr|lost\+found|\.DS_Store|Thumbs\.db|\.git(keep|ignore)|\.snapshot|\.nfs\w+"
)
OF_A_RUN = (".hydra/config.yaml", "config.yaml", "multirun.yaml", "manifest.json")  # of runs that left no record
RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "NODE_RANK", "GROUP_RANK")  # 0, or not set, in a run's first process
_locks: list[int] = []  # descriptors of the records that this process has locked


def claim_run_folder(path: str | Path, by: str, *, several: bool = False, begun: Collection[str] = ()) -> Path:
    """Make a folder that of a run, and return it; no other process can claim it until `release_claims`.

    Args:
        path: The folder. It must be that of an earlier run, or hold nothing but logs that a scheduler has opened there.
        by: The script that runs.
        several: Whether several scripts may run in it, each in a folder of its own.
        begun: Names of the files that this run has written there already.

    Raises:
        UserError: For a folder that holds something else, or that another run has claimed.
        OSError: For what the system refuses, with the path.
    """
    folder = expand(path)
    target = resolve_link(folder)
    if target.exists() and not target.is_dir():
        raise UserError(f"the run's folder {folder} is a file; name a folder")
    check_writable(target)
    if target.is_dir():
        _refuse_foreign(folder, target, by, several, begun)
    with named(target):
        target.mkdir(parents=True, exist_ok=True)
    if _is_first_rank():
        _lock(folder, target)
    claimed = {"name": ".", "by": "" if several else by}
    if claimed not in read_record(target):
        append(target, claimed)
    return folder


def _refuse_foreign(folder: Path, target: Path, by: str, several: bool, begun: Collection[str]) -> None:
    own_log = f"{by}.log"
    entries = sorted(entry.name for entry in target.iterdir() if not is_record(entry.name))
    foreign = [name for name in entries if name not in begun and (name == own_log or not HARMLESS.fullmatch(name))]
    if foreign and not is_run(target, begun):
        raise UserError(
            f"the folder {folder} holds {foreign[0]}, which no run wrote; name a new folder, or that of an earlier run"
        )
    recorded = {str(line.get("by")) for line in read_record(target) if line["name"] == "."}
    scripts = (recorded or ({*_unrecorded_script(target)} if not begun else set())) - {by, ""}
    if scripts and not several:
        raise UserError(
            f"the folder {folder} is that of a run of {min(scripts)}.py, whose files {by}.py would replace; name "
            "another folder"
        )


def _unrecorded_script(folder: Path) -> list[str]:
    """Return the script of a run that left no record, by the files of Hydra."""
    if not (file := folder / ".hydra/hydra.yaml").is_file() or (folder / "multirun.yaml").is_file():
        return []
    return re.findall(r"^    config_name: (\w+)$", file.read_text(errors="replace"), re.MULTILINE)[:1]


def is_run(folder: Path, begun: Collection[str] = ()) -> bool:
    """Return whether a folder is that of a run or a multirun, by its record or by files other than `begun`."""
    if any(line["name"] == "." for line in read_record(folder)):
        return True
    known = (folder / name for name in OF_A_RUN if name.partition("/")[0] not in begun)
    return any(path.is_file() and b"gen2embed." in path.read_bytes() for path in known)


def of_run(path: Path, *names: str) -> list[Path]:
    """Return `[path]` if it has one of `names` and lies in the folder of a run, whose file it is then; else []."""
    return [path] if path.name in names and is_run(path.parent) else []


def _is_first_rank() -> bool:
    return not any(os.environ.get(name, "0").strip("0") for name in RANKS)


def _lock(folder: Path, target: Path) -> None:
    """Lock a folder's record until the process ends; raise `UserError` if another process has it."""
    if sys.platform == "win32":
        return
    with named(target):
        opened = os.open(target / RECORD, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(opened)
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            log.info("the disk of %s takes no locks (%s); let no other run write there", folder, error.strerror)
            return
        raise UserError(f"another run writes in {folder}; wait until it ends, or name another folder") from None
    _locks.append(opened)


def release_claims() -> None:
    """Release the folders that this process has claimed."""
    while _locks:
        with contextlib.suppress(OSError):
            os.close(_locks.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=release_claims)  # a loader's worker may outlive the run
