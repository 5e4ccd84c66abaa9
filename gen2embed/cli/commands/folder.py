"""Recognise pictures by name or by content, and find those of a folder, at any depth."""

from __future__ import annotations

import os
import re
import stat
import struct
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gen2embed.utils.errors import first_few

PICTURES = (
    *(".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".jp2", ".ppm"),
    *(".jfif", ".jpe", ".apng", ".j2k", ".pgm", ".pbm", ".pnm"),
)
HEIC_ENDINGS = (".heic", ".heif", ".hif")
HEAD = 64  # bytes of a file by which its kind is recognised
MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")
TIFF = (b"II*\0", b"MM\0*")  # raw files of cameras begin so, too, and only their thumbnail would be read
BITMAP_HEADERS = (12, 40, 52, 56, 64, 108, 124)  # bytes
AVIF_BRANDS = (b"avif", b"avis")
HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")

HIDDEN, OTHER, AGAIN, UNREADABLE = "hidden", "no picture", "a link to a folder that was read before", "unreadable"
HEIC = "HEIC, which cannot be read (convert it to JPEG, as `heif-convert` does)"
_PLAIN = re.compile(rb"[^\x00-\x08\x0e-\x1f\x7f-\xff]*")  # ASCII, without control characters
CONCERNING = (HEIC, UNREADABLE)  # reasons to skip a file that somebody may miss


@dataclass(frozen=True)
class Pictures:
    """The pictures of a folder.

    Attributes:
        paths: The pictures, in order.
        skipped: Other files and folders, by the reason for which they were skipped.
    """

    paths: Sequence[Path]
    skipped: Mapping[str, Sequence[Path]]

    def describe_skipped(self, folder: Path) -> str:
        """Return one line that counts what was skipped, with an example of each kind; "" if nothing was."""
        if not self.skipped:
            return ""
        kinds = (
            f"{len(paths)} {reason} ({first_few([path.relative_to(folder) for path in paths], 2)})"
            for reason, paths in self.skipped.items()
        )
        return f"{folder}: {sum(map(len, self.skipped.values()))} skipped: {', '.join(kinds)}"


def why_no_picture(path: Path) -> str | None:
    """Return why a file is no picture that can be read; None if it is a picture by its name or its content.

    A file with a picture's name may still be broken; `check_pictures` finds that. A .txt file of plain text is a text,
    even if it begins like a picture, such as with `GIF89a` or `P3 10 20`.
    """
    ending = path.suffix.lower()
    if ending in (*PICTURES, *HEIC_ENDINGS):
        return None if ending in PICTURES else HEIC
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would wait for ever
            return OTHER
        with path.open("rb") as opened:
            head = opened.read(HEAD)
    except OSError:
        return UNREADABLE
    if ending == ".txt" and _PLAIN.fullmatch(head):
        return OTHER
    if head[4:8] == b"ftyp":
        brands = {head[start : start + 4] for start in range(8, len(head), 4)}
        return None if brands & {*AVIF_BRANDS} else HEIC if brands & {*HEIC_BRANDS} else OTHER
    return None if _begins_as_picture(head, has_ending=bool(path.suffix)) else OTHER


def _begins_as_picture(head: bytes, *, has_ending: bool) -> bool:
    return (
        head.startswith(MAGIC)
        or (head.startswith(b"RIFF") and head[8:12] == b"WEBP")
        or (head.startswith(TIFF) and not has_ending)
        or (head.startswith(b"BM") and len(head) > 18 and struct.unpack("<I", head[14:18])[0] in BITMAP_HEADERS)
        or re.match(rb"P[1-6]\s+\d+\s+\d+\s", head) is not None
    )


def find_pictures(folder: Path) -> Pictures:
    """Return the pictures of a folder, at any depth, in the order of their paths.

    Links to folders are followed after all folders that are no links, and each folder is read once. Files without a
    picture's name are recognised by their content.
    """
    skipped: dict[str, list[Path]] = defaultdict(list)
    pictures = []
    for path in sorted(_files(folder, skipped)):
        if why := why_no_picture(path):
            skipped[why].append(path)
        else:
            pictures.append(path)
    return Pictures(pictures, {reason: sorted(paths) for reason, paths in sorted(skipped.items())})


def _files(folder: Path, skipped: dict[str, list[Path]]) -> Iterator[Path]:
    """Yield the files below a folder that are not hidden; `skipped` gets the other paths."""
    seen: set[tuple[int, int]] = set()
    pending, links = [folder], list[Path]()
    while pending or links:
        parent = pending.pop() if pending else links.pop(0)
        try:
            identity = _identity(parent)
            names = sorted(os.listdir(parent))  # noqa: PTH208  (names, before there are paths of them)
        except OSError:
            skipped[UNREADABLE].append(parent)
            continue
        if identity in seen:
            skipped[AGAIN].append(parent)
            continue
        seen.add(identity)
        for path in (parent / name for name in names):
            if path.name.startswith("."):
                skipped[HIDDEN].append(path)
            elif not os.path.isdir(path):  # noqa: PTH112  (which raises for no link in a circle)
                yield path
            elif path.is_symlink():
                links.append(path)
            else:
                pending.append(path)


def _identity(folder: Path) -> tuple[int, int]:
    """Return the device and the inode, which are equal for two paths of one folder."""
    status = folder.stat()
    return status.st_dev, status.st_ino
