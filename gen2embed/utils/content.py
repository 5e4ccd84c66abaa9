"""Check texts and pictures: whether they can be embedded, and how a picture was turned."""

from __future__ import annotations

import os
import re
from pathlib import Path

from PIL import ExifTags, Image

MOST_PIXELS = 178_956_970  # of a picture, half a GiB as RGB; Pillow, too, takes more for a decompression bomb
SHOWN = 100  # characters of a value in a message
LFS_HEAD = b"version https://git-lfs"
LFS_REMEDY = "fetch the files themselves with `git lfs pull`"
UPRIGHT = {  # by EXIF's orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
ENCODED = re.compile(r"(?:/9j/|iVBORw0KGgo|R0lGOD|UklGR)[A-Za-z0-9+/=\s]{60,}")  # JPEG, PNG, GIF, WebP in base64
BRING_BACK = "bring it back, or mount its disk again, and give the same command again, which goes on from what is there"


def wrong_with(text: str) -> str | None:
    """Return why no tokenizer takes a text; None if it is valid.

    A text may not hold a lone surrogate, such as \\ud83d in JSON without the other half of its pair.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        shown = ascii(text[max(0, error.start - 20) : error.end])
        return f"holds a lone surrogate at character {error.start}, {shown}; write it again as UTF-8"
    return None


def not_a_file(name: str) -> str | None:
    """Return why a text is not the name of a file on this machine, with the remedy; None if it may be one."""
    if re.match(r"(?i)data:([\w.+-]+/[\w.+-]+)?[;,]", name) or (len(name) > SHOWN and ENCODED.match(name)):
        return "is a picture in base64; write the picture to a file, and give its name"
    if ":" not in name[:20]:
        return None
    if re.match(r"(?i)file:/", name):
        return "is an address; give the path alone, without file://"
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", name):  # a Path has lost one of two slashes
        return "is an address; download the picture, and give the file's name"
    if re.match(r"[A-Za-z]:[\\/]", name) and os.name != "nt":
        return "is a path of Windows; give the path on this machine"
    return None


def wrong_with_picture(picture: Image.Image) -> str | None:
    """Return why a picture in memory cannot be embedded, with the remedy; None if it can. Decodes it."""
    try:
        width, height = picture.size
        if not width or not height:
            return f"has no pixels: it is {width}x{height}; leave it out"
        if width * height > MOST_PIXELS:
            return f"has {width}x{height} pixels, more than {MOST_PIXELS:,}; make it smaller"
        if wrong := wrong_with_mode(picture.mode):
            return wrong
        picture.load()
    except Exception as error:  # the decoders of broken files raise many kinds
        return f"cannot be read: {error or type(error).__name__}; open it again, or leave it out"
    return None


def is_lfs_pointer(path: Path) -> bool:
    """Return whether a file is a pointer to one that Git LFS has not fetched."""
    try:
        if not path.is_file():  # a pipe would wait for ever
            return False
        with path.open("rb") as opened:
            return opened.read(len(LFS_HEAD)) == LFS_HEAD
    except OSError:
        return False


def wrong_with_mode(mode: str) -> str | None:
    """Return why pictures of a mode of PIL cannot be embedded, with the remedy; None if they can."""
    if mode in ("I", "F"):
        return f"has greys of 32 bits (mode {mode}), of unknown range; save it with 8 or 16 bits"
    if not mode.startswith("I;16"):
        try:
            Image.new(mode, (1, 1)).convert("RGB")
        except (ValueError, KeyError, OSError):
            return f"has the mode {mode}, of which no RGB can be made; convert it"
    return None


def shown(value: object) -> str:
    """Return a value for a message: quoted, and without its middle where it is long."""
    text = str(value)
    return repr(text if len(text) <= SHOWN else f"{text[: SHOWN // 2]}…{text[-SHOWN // 4 :]}")


def orientation(picture: Image.Image) -> int:
    """Return how a camera was held, by EXIF; 1, upright, where there is no EXIF that can be read."""
    try:
        turn = picture.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # its parser raises many kinds
        return 1
    return turn if turn in range(1, 9) else 1


def missing_picture(path: Path) -> str:
    """Return the message for a picture that does not exist, with the remedy if its folder does not exist either."""
    remedy = "" if path.parent.is_dir() else f"; its folder is away, too: {BRING_BACK}"
    return f"the picture {path} does not exist{remedy}"
