"""What may stand where an output is to be, and whether anything of it was lost."""

import ctypes
import os
from contextlib import contextmanager

import pytest

PRECIOUS = "what nobody may lose"


def tree(root):
    """Every file, folder and link below a folder: its kind, its mode, and its content or its target."""
    return {str(path.relative_to(root)): _described(path) for path in sorted(root.rglob("*"))}


def _described(path):
    mode = oct(path.lstat().st_mode)
    if path.is_symlink():
        return mode, str(path.readlink())
    return mode, path.read_bytes() if path.is_file() else None


def lost(before, after):
    """What was there before and is not as it was, with what is there now."""
    return {name: after.get(name, "gone") for name in before if after.get(name) != before[name]}


@contextmanager
def permissions_count():
    """Inside, this thread has no right to override permissions, also where it is root's."""
    system, header, held = ctypes.CDLL(None), (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    if system.capget(header, held):
        pytest.skip("capabilities cannot be read")
    rights = held[0]
    held[0] &= ~0b110  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, of those in effect
    assert system.capset(header, held) == 0
    try:
        yield
    finally:
        held[0] = rights
        assert system.capset(header, held) == 0


def folder(path):
    """Somebody's folder."""
    (path / "nested").mkdir(parents=True)
    (path / "nested/deep.txt").write_text(PRECIOUS)
    (path / "notes.txt").write_text(PRECIOUS)
    return path


def file(path):
    """Somebody's file."""
    path.write_text(PRECIOUS)
    return path


def hidden(path):
    """A folder that looks empty."""
    path.mkdir()
    (path / ".hidden").write_text(PRECIOUS)
    return path


def link(path, target):
    """A link to what is there, or to nothing."""
    path.symlink_to(target)
    return path


def below(path, parent):
    """The same name somewhere else."""
    return parent / path.name


def fifo(path):
    """A pipe, of which nobody may wait for the other end."""
    os.mkfifo(path)
    return path


def denied(path):
    """A name in a folder that may not be written."""
    (where := path.with_name("denied")).mkdir()
    where.chmod(0o555)
    return where / path.name


# What the user names, made from a name that is free; each is to be refused.
PLACES = {
    "a full folder": folder,
    "a folder with a hidden file": hidden,
    "a file": file,
    "a link to a folder": lambda path: link(path, folder(path.with_name("precious"))),
    "a link to a link to a folder": lambda path: link(path, link(path.with_name("b"), folder(path.with_name("c")))),
    "a link to a file": lambda path: link(path, file(path.with_name(f"precious{path.suffix}"))),
    "a link into a folder that is gone": lambda path: link(path, path.with_name("gone") / path.name),
    "a link to itself": lambda path: link(path, path),
    "below a file": lambda path: below(path, file(path.with_name("file"))),
    "below a link that leads nowhere": lambda path: below(path, link(path.with_name("nowhere"), "gone")),
    "a name that is too long": lambda path: path.with_name("n" * 300 + path.suffix),
    "a pipe": fifo,
    "a folder that may not be written": denied,
    "with a slash": lambda path: f"{folder(path)}/",
    "through two dots": lambda path: f"{folder(path)}/nested/..",
    "nothing": lambda _: "",
    "the working folder": lambda _: ".",
    "the root": lambda _: "/",
}
