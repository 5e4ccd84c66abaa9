"""The fingerprint of an embedding: all settings that decide it, by which the store knows what it may reuse.

`SETTINGS` lists them; `model`, `files` and `code` stand for the files of a checkpoint, which `identity.py` lists.
What changes a vector by rounding only is left out: packing, the tokens of a pass, compilation, the device, workers and
ranks. `attention`, `dtype` and a merged adapter are included, as users compare these ways of computing.
"""

from __future__ import annotations

import importlib.metadata
import re
from functools import cache
from typing import TYPE_CHECKING, Any

from gen2embed.model.identity import digest_value
from gen2embed.model.inputs import InputBuilder
from gen2embed.model.pooling import Pooling, describe_pooling
from gen2embed.utils.fingerprints import json_values

if TYPE_CHECKING:
    from gen2embed.model.backbone import Backbone

SETTINGS = {  # keys of a fingerprint, and what they cover
    "model": "a hub id at its commit, or a digest of the local files that decide an embedding",
    "files": "the digest of each of those files, so that a message can name the differing ones",
    "code": "the remote code that runs, under trust_remote_code",
    "adapter": "its weights and its configuration (rank, alpha, DoRA), and whether it is merged",
    "prompt": "system texts, suffixes, convention, and what an embedder's own convention needs",
    "chat_template": "the template in memory, which convention native renders",
    "resolution": "policy, min_pixels, max_pixels, backend of the image processor",
    "image_processor": "each of its settings",
    "processor": "each setting of what stands in an image slot",
    "pictures": "how a file becomes RGB",
    "pooling": "its class and its settings",
    "attention": "its implementation",
    "dtype": "of the weights",
    "max_length": "in tokens",
    "libraries": "versions, as far as they decide",
}
# Minor versions of MAJOR change rounding alone; those of MINOR have changed how pictures and texts are read.
MAJOR, MINOR = ("torch", "pillow"), ("transformers", "tokenizers")


def fingerprint_of(backbone: Backbone, build: InputBuilder, pooling: Pooling) -> dict[str, Any]:
    """Return everything that decides an embedding, in plain values: `SETTINGS`."""
    return {
        "model": backbone.identity,
        "files": dict(backbone.files),
        "code": backbone.code,
        "adapter": backbone.adapter,
        "prompt": build.prompt.describe(),
        "chat_template": digest_value(backbone.processor.chat_template),
        "resolution": build.resolution.describe(),
        "image_processor": json_values(backbone.processor.image_processor.to_dict()),
        "processor": json_values(_settings(backbone.processor)),
        "pictures": "upright, 16 bits scaled to 8",  # `load_picture`
        "pooling": json_values(describe_pooling(pooling)),
        "attention": backbone.attention,
        "dtype": str(backbone.dtype).removeprefix("torch."),
        "max_length": build.max_length,
        "libraries": _versions(backbone.adapter is not None, build.resolution.backend),
    }


def _settings(processor: Any) -> dict[str, Any]:
    """Return the plain settings of a processor that have no entry of their own."""
    plain = (str, int, float, bool, list, type(None))
    names = [name for name in vars(processor) if name != "chat_template" and not re.search("_token(_ids?)?$", name)]
    return {name: vars(processor)[name] for name in names if isinstance(vars(processor)[name], plain)}


def _versions(adapted: bool, backend: str) -> dict[str, str]:
    minor = (*MINOR, *(["peft"] if adapted else []), *(["torchvision"] if backend == "torchvision" else []))
    return {name: _version(name, 1) for name in MAJOR} | {name: _version(name, 2) for name in minor}


@cache
def _version(library: str, numbers: int) -> str:
    return ".".join(importlib.metadata.version(library).split(".")[:numbers])
