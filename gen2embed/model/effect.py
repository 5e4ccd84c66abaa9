"""Check that an adapter changes the model's output."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from PIL import Image

from gen2embed.types import Item
from gen2embed.utils.errors import UserError

if TYPE_CHECKING:
    from gen2embed.model.embedder import Embedder

ROUNDING = 1e-6  # in an element of a unit vector, in single precision


def check_effect(embedder: Embedder, adapter: Path) -> None:
    """Raise `UserError` if the adapter of an embedder changes neither a text's vector nor a picture's."""
    for item in (Item.create("a red apple"), Item.create("", Image.new("RGB", (336, 336), "red"))):
        with torch.inference_mode():
            inputs = embedder.build([item], "query")
            adapted = embedder.embed_inputs(inputs)
            with embedder.backbone.full.disable_adapter():
                plain = embedder.embed_inputs(inputs)
        if (adapted - plain).abs().max() > ROUNDING:
            return
    raise UserError(
        f"the adapter {adapter} changes no output of {embedder.backbone.name}: it was saved before it was trained, or "
        "its weights are zero; load the model without it, or another checkpoint"
    )
