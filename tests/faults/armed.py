"""In a child of a test: what it changes below a folder is listed, and one of the changes can be its last.

A change is opening a file to write it, a write, a sync, a rename, a removal or a new folder. It is listed as its kind:
`write *.npy`, where a file that is written under another name counts as what it becomes. Files that compiled code opens
by itself (safetensors) are seen from their sync on.
"""

import builtins
import errno
import io
import os
import re
import signal
from pathlib import Path

from numpy.lib import _format_impl

RENAMED = {"rename": "rename", "replace": "rename", "unlink": "remove", "remove": "remove", "rmdir": "remove",
           "mkdir": "mkdir", "fsync": "sync"}  # fmt: skip
UNFINISHED = r"^\.+|\.[0-9a-f]{32}$|\.removed$"  # what the names of files have that are not whole
LOGS = re.compile(r"\.log|\.hydra|hydra\.yaml|overrides\.yaml")  # which nobody goes on from


def full():
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


ACTS = {
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "stop": lambda: os.kill(os.getpid(), signal.SIGTERM),
    "full": full,  # as the system says it of a disk
}


def family(name):
    """A file's name without what tells it from others of its kind."""
    return re.sub(r"[0-9a-f]{8,}|\d+", "*", re.sub(UNFINISHED, "", name))


class Changes:
    """Lists the changes below `root` in the file `listed`; in the middle of the `nth` of a kind comes `act`.

    A disk that is full stays so, whatever is changed next.

    kind: what the kinds begin with; None is no kind. after: `act` comes when the change is done, in place of before.
    """

    def __init__(self, root, listed, kind=None, nth=1, after=False, act="kill"):
        self.root, self.kind, self.left, self.after = str(root) + os.sep, kind, nth, after
        self.act, self.stays = ACTS[act], act == "full"
        self.listed = os.open(listed, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def below(self, path):
        path = str(Path(path).absolute())
        return path.startswith(self.root) and not LOGS.search(path)

    def due(self, operation, path):
        """List a change; returns whether it is the one."""
        kind = f"{operation} {family(Path(path).name)}"
        os.write(self.listed, f"{kind}\n".encode())
        aimed = self.kind is not None and kind.startswith(self.kind)
        self.left -= aimed
        return aimed and (self.left == 0 or (self.left < 0 and self.stays))

    def watch(self):
        """From now on; the process is not the same afterwards."""
        for name, operation in RENAMED.items():
            setattr(os, name, self._watched(getattr(os, name), operation))
        io.open = builtins.open = self._opener(builtins.open)
        _format_impl.isfileobj = lambda _: False  # numpy would write past the file object

    def _watched(self, plain, operation):
        def call(path, *args, **kwargs):
            where = _place(path, kwargs.get("dir_fd"))
            due = self.below(where) and self.due(operation, where)
            if due and not self.after:
                self.act()
            result = plain(path, *args, **kwargs)
            if due and self.after:
                self.act()
            return result

        return call

    def _opener(self, plain):
        def call(file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, closefd=True, opener=None):
            if isinstance(file, int) or not set("wxa+") & set(mode) or not self.below(file):
                return plain(file, mode, buffering, encoding, errors, newline, closefd, opener)
            due = self.due("open", file)
            if due and not self.after:
                self.act()
            raw = _File(self, os.fspath(file), mode.replace("b", "").replace("t", ""))
            if due:
                self.act()
            if buffering == 0:
                return raw
            buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
            return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding, errors, newline)

        return call


class _File(io.FileIO):
    def __init__(self, changes, path, mode):
        super().__init__(path, mode)
        self.changes, self.path = changes, path

    def write(self, data):
        if self.changes.due("write", self.path):
            view = memoryview(data)
            super().write(view[: len(view) // 2])
            self.changes.act()
            data = view[len(view) // 2 :]
            return len(view) - len(data) + super().write(data)
        return super().write(data)


def _place(path, dir_fd):
    if isinstance(path, int):
        return Path(f"/proc/self/fd/{path}").readlink()
    return path if dir_fd is None else Path(f"/proc/self/fd/{dir_fd}").readlink() / path


def watch(root, listed, **aim):
    Changes(Path(root).resolve(), listed, **aim).watch()
