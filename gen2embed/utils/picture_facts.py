"""Read the digest and the size of a picture's file in one pass, and remember them (`facts.py`)."""

from __future__ import annotations

import hashlib
import struct
from io import BufferedReader
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from gen2embed.utils.content import missing_picture, wrong_with_mode
from gen2embed.utils.errors import UserError
from gen2embed.utils.facts import remember

PACKED = struct.Struct("<16sII")  # digest, width, height


class PictureFacts(NamedTuple):
    """The digest of a picture's file, its width and its height in pixels, which are 0 if it cannot be embedded."""

    digest: bytes
    width: int
    height: int


def picture_facts(path: Path) -> PictureFacts:
    """Return the facts of a picture's file; raise `OSError` for one that is missing or is not a regular file."""
    return PictureFacts(*PACKED.unpack(remember(path, "picture", PACKED.size, _read)))


def known_picture(path: Path) -> PictureFacts:
    """Return the facts of a picture's file; raise `UserError` if it cannot be read."""
    try:
        return picture_facts(path)
    except FileNotFoundError:
        raise UserError(missing_picture(path)) from None
    except OSError as error:
        raise UserError(f"the file {path} is not a picture that can be read: {error}") from None


def _read(opened: BufferedReader) -> bytes:
    try:
        picture = Image.open(opened)
        width, height = (0, 0) if wrong_with_mode(picture.mode) else picture.size
    except Exception:  # decoders raise many types; whatever embeds the file reports the error
        width = height = 0
    opened.seek(0)
    digest = hashlib.file_digest(opened, lambda: hashlib.blake2b(digest_size=16)).digest()
    return PACKED.pack(digest, width, height)
