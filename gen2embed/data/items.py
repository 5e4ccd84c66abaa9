"""From the inputs of the Python API to items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from gen2embed.data.pictures import check_pictures, find_faults
from gen2embed.types import Item
from gen2embed.utils.content import shown, wrong_with_picture
from gen2embed.utils.errors import UserError

Input = str | Mapping[str, Any] | Item


def as_items(inputs: Sequence[Input] | Input) -> list[Item]:
    """Return the items of texts, dicts or items; a single input gives a list of one.

    Raises:
        UserError: An input is none of these, or has a picture that is missing, broken or too large. The message names
            the input by its index.
    """
    if isinstance(inputs, str | Mapping | Item):
        inputs = [inputs]
    if isinstance(inputs, bytes | bytearray | Path | Image.Image) or not _is_iterable(inputs):
        raise UserError(f"inputs are texts, dicts or Items, one or a list of them; got {_described(inputs)}")
    items = []
    for index, value in enumerate(inputs):
        try:
            items.append(_checked(value))
        except UserError as error:
            raise UserError(f"input {index}: {error}") from None
    try:
        check_pictures(picture for item in items for picture in item.pictures)
    except UserError as error:
        raise UserError(f"input {_first_fault(items)}: {error}") from None
    return items


def _is_iterable(inputs: Any) -> bool:
    try:
        iter(inputs)
    except TypeError:
        return False
    return True


def _first_fault(items: Sequence[Item]) -> int:
    """Return the index of the first item with a picture's file that is missing or unusable."""
    paths = ([picture.source for picture in item.pictures if isinstance(picture.source, Path)] for item in items)
    return next(index for index, files in enumerate(paths) if find_faults(files))


def _checked(value: Any) -> Item:
    item = as_item(value)
    for picture in item.pictures:
        if isinstance(picture.source, Image.Image) and (wrong := wrong_with_picture(picture.source)):
            raise UserError(f"the image {wrong}")
    return item


def as_item(value: Input) -> Item:
    """Return the item of a text, a dict with text, image and instruction, or an item."""
    if isinstance(value, Item):
        return value
    if isinstance(value, str):
        return Item.create(value)
    if not isinstance(value, Mapping):
        raise UserError(f"an input is a text, a dict or an Item; got {_described(value)}")
    if unknown := set(value) - {"text", "image", "instruction"}:
        raise UserError(f"an input has text, image and instruction; got {', '.join(sorted(map(str, unknown))[:5])}")
    for name in ("text", "instruction"):
        if not isinstance(value.get(name), str | None):
            raise UserError(f"the {name} is a text or None; got {_described(value[name])}")
    image = value.get("image")
    if not isinstance(image, str | Path | Image.Image | None):
        raise UserError(f"an image is a path or a PIL picture; got {_described(image)}")
    return Item.create(value.get("text") or "", image, value.get("instruction"))


def _described(value: Any) -> str:
    """Return the type of a value that is no input, and how to turn it into one where that is known."""
    name = type(value).__name__
    if isinstance(value, Image.Image | Path):
        return f'{name}; write {{"image": ...}} around it'
    if isinstance(value, bytes | bytearray):
        return f"{name}; open a picture with PIL.Image.open(io.BytesIO(...))"
    if name in ("ndarray", "Tensor"):
        return f"{name}; make a picture of it with PIL.Image.fromarray(...)"
    if isinstance(value, list | tuple | Mapping):
        return f"{name} of {len(value)}; one input has one text and one picture at most"
    return name if value is None else f"{name} {shown(value)}"
