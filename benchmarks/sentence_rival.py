"""What the speed benchmarks compare with: sentence-transformers, on the same weights, adapters and prompts."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import peft
import torch
from rivals import ORIGINAL, TARGETS, content_of, start
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import transformer
from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling
from torch import Tensor
from transformers import AutoConfig
from yardstick import SHAPES, TEMPERATURE, save_checkpoint

from gen2embed import Item
from gen2embed.model.backbone import Backbone, Dtype
from gen2embed.model.processor import load_processor
from gen2embed.model.prompts import Prompt
from gen2embed.types import Pair
from gen2embed.utils.choices import Role


@dataclass(frozen=True)
class SentenceTransformers:
    """The library's own encoding and cached loss; its system prompt is level 1, and level 2 is part of the text."""

    model: SentenceTransformer
    prompt: Prompt
    chunk: int

    @classmethod
    def load(cls, folder: Path, prompt: Prompt, chunk: int, dtype: Dtype, device: str) -> SentenceTransformers:
        """Load a checkpoint with our processor, as the library's own needs torchvision for videos."""
        processor = load_processor(str(folder), AutoConfig.from_pretrained(folder), ORIGINAL, {})
        with mock.patch.object(transformer.AutoProcessor, "from_pretrained", return_value=processor):
            first = transformer.Transformer(
                str(folder),
                model_kwargs={"dtype": dtype, "attn_implementation": "sdpa"},
                processing_kwargs={"chat_template": {"add_generation_prompt": True}},
            )
        pooling = Pooling(first.get_embedding_dimension(), pooling_mode="lasttoken")
        return cls(SentenceTransformer(modules=[first, pooling, Normalize()], device=device), prompt, chunk)

    @classmethod
    def around(cls, backbone: Backbone, prompt: Prompt, chunk: int) -> SentenceTransformers:
        """Return the library around a model that is in memory; what it loads itself is a model of few weights."""
        with tempfile.TemporaryDirectory() as folder:
            save_checkpoint(SHAPES["smoke"], Path(folder))
            loaded = cls.load(Path(folder), prompt, chunk, "float32", "cpu")
        first, pooling, _ = loaded.model
        first.model, first.processor = backbone.model, backbone.processor
        pooling.embedding_dimension = backbone.full.config.get_text_config().hidden_size
        loaded.model.to(backbone.device)
        return loaded

    def adapted(self, dropout: float) -> SentenceTransformers:
        config = peft.LoraConfig(
            r=8,
            lora_alpha=64,
            lora_dropout=dropout,
            target_modules=list(TARGETS),
            init_lora_weights="gaussian",
            use_dora=True,
        )
        # what its add_adapter does, for which transformers 5.24 asks for a peft that is not released
        peft.inject_adapter_in_model(config, self.model.transformers_model)
        start(self.model)
        self.model.train()
        return self

    def encode(self, items: Sequence[Item], role: Role) -> Tensor:
        return self.model.encode(
            [self._input(item, role) for item in items],
            prompt=self.prompt.system.get(role),
            batch_size=self.chunk,
            show_progress_bar=False,
            convert_to_tensor=True,
        ).cpu()

    def features(self, items: Sequence[Item], role: Role) -> dict[str, Any]:
        """Return the inputs of a batch, on the model's device."""
        inputs = self.model.preprocess([self._input(item, role) for item in items], prompt=self.prompt.system.get(role))
        return {key: self._move(value) for key, value in inputs.items()}

    @torch.no_grad()
    def embed(self, batches: Sequence[dict[str, Any]]) -> Tensor:
        """Return the vectors of batches whose inputs are there already."""
        return torch.cat([self.model(dict(features))["sentence_embedding"] for features in batches])

    def step(self, pairs: Sequence[Pair]) -> Tensor:
        loss = CachedMultipleNegativesRankingLoss(self.model, scale=1 / TEMPERATURE, mini_batch_size=self.chunk)
        sides: list[tuple[Role, list[Item]]] = [
            ("query", [pair.query for pair in pairs]),
            ("candidate", [pair.positive for pair in pairs]),
        ]
        value = loss([self.features(items, role) for role, items in sides], torch.empty(0))
        value.backward()
        return value.detach()

    def _move(self, value: Any) -> Any:
        return value.to(self.model.device) if isinstance(value, Tensor) else value

    def _input(self, item: Item, role: Role) -> str | dict[str, Any]:
        """Return an input as the library's users write it: a text, or a picture and a text."""
        parts = content_of(item, role, self.prompt)
        text = "".join(part["text"] for part in parts if part["type"] == "text")
        pictures = [part["image"] for part in parts if part["type"] == "image"]
        return {"image": pictures[0], "text": text} if pictures else text
