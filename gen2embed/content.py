"""What texts and pictures hold that decides whether, and how, they are embedded."""

from __future__ import annotations

from PIL import ExifTags, Image


def wrong_with(text: str) -> str | None:
    """Why no tokenizer takes a text; None if one does.

    No encoding has a lone surrogate, which half of an escaped pair, such as \\ud83d in JSON, leaves.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        shown = ascii(text[max(0, error.start - 20) : error.end])
        return f"holds a lone surrogate at character {error.start}, {shown}; write it again as UTF-8"
    return None


def orientation(picture: Image.Image) -> int:
    """How a camera was held, by EXIF: 1 is upright. A block that cannot be read says nothing."""
    try:
        turn = picture.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # its parser raises many kinds
        return 1
    return turn if turn in range(1, 9) else 1
