"""What the Python API takes for an item."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from gen2embed.types import Item, UserError

Input = str | Mapping[str, Any] | Item


def as_item(value: Input) -> Item:
    """An item of a text, a dict with text, image and instruction, or an item."""
    if isinstance(value, Item):
        return value
    if isinstance(value, str):
        return Item.of(value)
    if not isinstance(value, Mapping):
        raise UserError(f"an input is a text, a dict or an Item; got {type(value).__name__}")
    if unknown := set(value) - {"text", "image", "instruction"}:
        raise UserError(f"an input has text, image and instruction; got {', '.join(sorted(map(str, unknown)))}")
    image = value.get("image")
    if not isinstance(image, str | Path | Image.Image | None):
        raise UserError(f"an image is a path or a PIL picture; got {type(image).__name__}")
    return Item.of(value.get("text") or "", image, value.get("instruction"))
