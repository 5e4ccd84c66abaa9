"""The embedder: a backbone, its inputs under a prompt, and pooling; and the public Python API over it."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from gen2embed import images
from gen2embed.encoder.backbone import Backbone, Dtype, load_backbone
from gen2embed.encoder.engine import Engine
from gen2embed.encoder.inputs import InputBuilder
from gen2embed.encoder.pooling import last_token
from gen2embed.images import Policy, Resolution
from gen2embed.presets import load_preset
from gen2embed.prompts import Convention, Prompt
from gen2embed.types import ROLES, Item, Role, UserError

Input = str | Mapping[str, Any] | Item


@dataclass(frozen=True)
class Embedder:
    """Embeds items of text and pictures as unit vectors."""

    backbone: Backbone
    build: InputBuilder

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        prompt: str | Prompt | None = None,
        convention: Convention | None = None,
        resolution: Policy | Resolution | None = None,
        dtype: Dtype = "auto",
        device: str = "auto",
        max_length: int = 2048,
        revision: str | None = None,
        trust_remote_code: bool = False,
    ) -> Embedder:
        """Load a multimodal LLM as an embedder.

        path: a hub id, or a folder in Hugging Face format.
        prompt: a shipped name (hierarchical, system, suffix, none) or a `Prompt`; None is hierarchical.
        convention: overrides the prompt's (`native` or `reference`, see `gen2embed.prompts`).
        resolution: a policy's name or a `Resolution`; None is clamp.
        dtype: auto is float32 on a CPU and bfloat16 on a GPU.
        max_length: in tokens; a longer input loses the end of its own text.

        Raises `UserError` for what cannot be loaded, with the remedy.
        """
        chosen: Prompt = prompt if isinstance(prompt, Prompt) else load_preset("prompt", prompt or "hierarchical")
        if convention is not None:
            chosen = replace(chosen, convention=convention)
        if not isinstance(resolution, Resolution):
            resolution = Resolution(resolution or "clamp")
        backbone = load_backbone(path, resolution, dtype, device, revision, trust_remote_code)
        return cls(backbone, InputBuilder(backbone.processor, backbone.model_type, chosen, resolution, max_length))

    def encode(
        self, inputs: Sequence[Input] | Input, role: Role = "query", batch_size: int = 32
    ) -> Float[Tensor, "n d"]:
        """Embed inputs in a role.

        inputs: each a text, a dict with `text` and/or `image` (a path or a PIL picture) and optional `instruction`, or
            an `Item`. A single one gives one row.
        Returns float32 unit vectors (n, d) on the CPU, in order; equal inputs are embedded once.
        """
        if role not in ROLES:
            raise UserError(f"role {role!r} is unknown; choose one of {', '.join(ROLES)}")
        if isinstance(inputs, str | Mapping | Item):
            inputs = [inputs]
        items = [as_item(value) for value in inputs]
        images.check(picture for item in items for picture in item.pictures)
        return Engine(batch_size).encode(self, items, role).vectors

    def embed(self, items: Sequence[Item], role: Role) -> Float[Tensor, "b d"]:
        """Unit vectors of one batch, in which all items have pictures or none has; differentiable."""
        device, dtype = self.backbone.device, self.backbone.dtype
        inputs = {
            key: value.to(device, dtype if value.is_floating_point() else None)
            for key, value in self.build(items, role).items()
        }
        hidden = self.backbone.model(**inputs, use_cache=False).last_hidden_state
        return torch.nn.functional.normalize(last_token(hidden, inputs["attention_mask"]).float(), dim=-1)

    @cached_property
    def fingerprint(self) -> dict[str, Any]:
        """Everything that decides an embedding, in plain values."""
        image_processor = self.backbone.processor.image_processor
        return {
            "model": self.backbone.identity,
            "prompt": self.build.prompt.describe(),
            "resolution": self.build.resolution.describe(),
            "image_processor": {
                "class": type(image_processor).__name__,
                "size": {key: value for key, value in dict(image_processor.size).items() if value is not None},
            },
            "pooling": last_token.__name__,
            "dtype": str(self.backbone.dtype).removeprefix("torch."),
            "max_length": self.build.max_length,
            "libraries": {
                name: importlib.metadata.version(name).split(".")[0] for name in ("torch", "transformers", "pillow")
            },
        }


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
