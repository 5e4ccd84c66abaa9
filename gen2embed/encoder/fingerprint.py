"""What decides an embedding, spelled out: by it the store knows what it may give again."""

from __future__ import annotations

import importlib.metadata
import json
from typing import Any

from gen2embed.encoder.backbone import Backbone
from gen2embed.encoder.inputs import InputBuilder
from gen2embed.encoder.pooling import last_token

LIBRARIES = ("torch", "transformers", "pillow")


def fingerprint_of(backbone: Backbone, build: InputBuilder) -> dict[str, Any]:
    """Everything that decides an embedding, in plain values."""
    return {
        "model": backbone.identity,
        "adapter": backbone.adapter,
        "prompt": build.prompt.describe(),
        "resolution": build.resolution.describe(),
        "image_processor": json.loads(json.dumps(backbone.processor.image_processor.to_dict(), default=str)),
        "pictures": "upright, 16 bits scaled to 8",  # `images.load`
        "pooling": last_token.__name__,
        "attention": backbone.attention,
        "dtype": str(backbone.dtype).removeprefix("torch."),
        "max_length": build.max_length,
        "libraries": {name: importlib.metadata.version(name).split(".")[0] for name in LIBRARIES},
    }
