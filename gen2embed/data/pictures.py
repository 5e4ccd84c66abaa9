"""How pictures are opened, and which of them cannot be used."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from gen2embed.types import ImagePart
from gen2embed.utils.content import (
    LFS_REMEDY,
    MOST_PIXELS,
    UPRIGHT,
    is_lfs_pointer,
    missing_picture,
    orientation,
    wrong_with_mode,
    wrong_with_picture,
)
from gen2embed.utils.errors import UserError, first_few
from gen2embed.utils.facts import keep_facts
from gen2embed.utils.log import progress
from gen2embed.utils.path_names import similar_file
from gen2embed.utils.picture_facts import PictureFacts, picture_facts

HEADERS_FROM = 5000  # pictures; fewer are read without a progress bar
READERS = 16  # threads that read pictures' files
MOST_ASPECT = 200  # of the longer side to the shorter; the models' image processors take no more

MISSING, UNREADABLE, LINKED = "missing", "unreadable", "linked from outside of the image folder"
LARGE, LONG = f"of more than {MOST_PIXELS:,} pixels", f"more than {MOST_ASPECT} times as long as wide"
DEEP, POINTER = "with greys of 32 bits, of unknown range", "pointers of Git LFS"
REMEDIES = {
    DEEP: "save them with 8 or 16 bits",
    UNREADABLE: "replace or remove them",
    LINKED: "put the files themselves there, as `cp -rL` does, or set image_dir to a folder that holds both",
    LARGE: "make them smaller, or remove them",
    LONG: "crop or remove them",
    POINTER: LFS_REMEDY,
}


def load_picture(picture: ImagePart) -> Image.Image:
    """Decode a picture to RGB, upright, its first frame; raises `UserError`, which names it.

    EXIF's orientation is applied. An alpha channel is dropped, as `convert` does. Greys of 16 bits are scaled to 8, not
    clipped.
    """
    if isinstance(picture.source, Image.Image):
        if wrong := wrong_with_picture(picture.source):
            raise UserError(f"{picture} {wrong}")
        return _rgb(picture.source)
    try:
        with _opened(picture.source) as opened:
            return _rgb(opened)
    except FileNotFoundError:
        raise UserError(missing_picture(picture.source)) from None
    except Exception as error:  # the decoders of broken files raise many kinds
        raise UserError(f"the file {picture.source} is not a picture that can be read: {error}") from None


def check_pictures(pictures: Iterable[ImagePart], roots: Sequence[Path] = ()) -> None:
    """Raise one `UserError` that counts the missing and the unusable pictures. Only headers are read.

    Args:
        pictures: The pictures.
        roots: The folders in which their paths were looked for: no picture may lie elsewhere. None: anywhere.
    """
    paths = _paths(pictures)
    fault_of = find_faults(paths, roots)
    for kind in dict.fromkeys((MISSING, *(fault.kind for fault in fault_of.values()))):
        if bad := [str(path) for path, fault in fault_of.items() if fault.kind == kind]:
            remedy = _looked(roots) + _meant(Path(bad[0])) if kind == MISSING else REMEDIES[kind]
            raise UserError(f"{len(bad)} of {len(paths)} pictures are {kind}: {first_few(bad)}; {remedy}")


class Fault(NamedTuple):
    """Why a picture cannot be used: one of `REMEDIES`, or missing; and the decoder's message, for an unreadable one."""

    kind: str
    message: str = ""

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}" if self.message else self.kind


def find_faults(paths: Iterable[Path], roots: Sequence[Path] = (), *, decode: bool = False) -> dict[Path, Fault]:
    """Return the faults of the pictures that cannot be used, in the order of their paths.

    Args:
        paths: The pictures' files.
        roots: The folders that hold them; none for anywhere.
        decode: Whether to decode them, rather than read their headers.
    """
    paths, fault_of = sorted(set(paths)), {}
    within = partial(_within, roots={os.path.realpath(root) for root in roots}, real=cache(os.path.realpath))
    with ThreadPoolExecutor(os.cpu_count() if decode else READERS) as pool:
        title = "decoding pictures" if decode else "checking pictures"
        with progress(title, len(paths), shown=len(paths) >= HEADERS_FROM) as advance:
            for path, fault in zip(paths, pool.map(lambda path: _fault(path, decode, within), paths), strict=True):
                if fault:
                    fault_of[path] = fault
                advance()
    keep_facts()
    return fault_of


def read_facts(pictures: Iterable[ImagePart], *, shown: bool = True) -> None:
    """Read digests and sizes of pictures' files in parallel, for their keys and sizes.

    A file that cannot be read is skipped; its picture raises when it is used.
    """
    waiting: dict[Path, list[ImagePart]] = {}
    for picture in pictures:
        if isinstance(picture.source, Path) and "facts" not in vars(picture):
            waiting.setdefault(picture.source, []).append(picture)
    bar = progress("reading pictures", len(waiting), shown=shown and len(waiting) >= HEADERS_FROM)
    with bar as advance, ThreadPoolExecutor(READERS) as pool:
        for same, facts in zip(waiting.values(), pool.map(_facts, waiting), strict=True):
            for picture in same if facts else ():
                vars(picture)["facts"] = facts
            advance()
    keep_facts()


def _facts(path: Path) -> PictureFacts | None:
    try:
        return picture_facts(path)
    except OSError:
        return None


def _paths(pictures: Iterable[ImagePart]) -> list[Path]:
    return sorted({picture.source for picture in pictures if isinstance(picture.source, Path)})


def _looked(roots: Sequence[Path]) -> str:
    others = f" and {len(roots) - 3} more folders in it" if len(roots) > 3 else ""
    return f"looked in {', '.join(map(str, roots[:3]))}{others}; set the image folder" if roots else "check the paths"


def _meant(path: Path) -> str:
    return f" (did you mean {similar}?)" if (similar := similar_file(path)) else ""


def _fault(path: Path, decode: bool, within: Callable[[Path], bool]) -> Fault | None:
    try:
        if not within(path):
            return Fault(LINKED)
        _, width, height = picture_facts(path)
        usable = 0 < width * height <= MOST_PIXELS and not _is_long(width, height)
        if decode or not usable:
            with _opened(path) as opened:
                is_long = _is_long(*opened.size)
                if is_long or wrong_with_mode(opened.mode):
                    return Fault(LONG if is_long else DEEP)
                if decode:
                    _rgb(opened)
    except FileNotFoundError:
        return Fault(MISSING)
    except Image.DecompressionBombError:
        return Fault(LARGE)
    except Exception as error:  # the decoders of broken files raise many kinds
        return Fault(POINTER) if is_lfs_pointer(path) else Fault(UNREADABLE, str(error) or type(error).__name__)
    return None


def _is_long(width: int, height: int) -> bool:
    return max(width, height) > MOST_ASPECT * min(width, height)


def _within(path: Path, roots: Collection[str], real: Callable[[Path], str]) -> bool:
    """Return whether a file lies below one of the roots after links are resolved; true if there are no roots.

    `real` resolves a folder and caches the result, since a folder holds many pictures.
    """
    target = Path(os.path.realpath(path)) if path.is_symlink() else Path(real(path.parent), path.name)
    return not roots or any(target.is_relative_to(root) for root in roots)


def _opened(path: Path) -> Image.Image:
    """Return a picture whose header was read and is usable."""
    if not stat.S_ISREG(path.stat().st_mode):  # a pipe would wait for ever
        raise OSError("it is not a regular file")
    opened = Image.open(path)
    if opened.width * opened.height > MOST_PIXELS:
        opened.close()
        raise Image.DecompressionBombError(f"it has {opened.width}x{opened.height} pixels, above {MOST_PIXELS:,}")
    return opened


def _rgb(picture: Image.Image) -> Image.Image:
    picture.load()
    turn = orientation(picture)  # 1 for a TIFF, which `load` has turned already
    if picture.mode.startswith("I;16"):
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    elif wrong := wrong_with_mode(picture.mode):
        raise ValueError(f"it {wrong}")
    rgb = picture.convert("RGB")
    return rgb if turn == 1 else rgb.transpose(UPRIGHT[turn])
