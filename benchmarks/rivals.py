"""What the speed benchmarks compare with: the published method's scheme, written plainly.

It takes the same weights, adapters, prompts and pictures as ours. `sentence_rival.py` has sentence-transformers'.

The scheme: the whole model with logits on all tokens and all hidden states kept; batches of a fixed size in
the given order; one processor call a sample, then padding; nothing is sorted, shared or left out. A step is gradient
caching (arXiv 2101.06983) over fixed chunks, queries before candidates, with the inputs made inside the step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from yardstick import TEMPERATURE

from gen2embed import Item
from gen2embed.encoding.batch import Inputs
from gen2embed.model.adapter import Lora
from gen2embed.model.backbone import Backbone, Dtype, load_backbone
from gen2embed.model.prompts import Prompt
from gen2embed.model.resolution import Resolution
from gen2embed.types import Pair
from gen2embed.utils.choices import Role

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "down_proj")  # of conf/adapter/paper.yaml those that Qwen2-VL has
ORIGINAL = Resolution(policy="original")


def loss_of(queries: Tensor, candidates: Tensor) -> Tensor:
    """Return InfoNCE over the batch, as published (arXiv 2508.00955, section 4)."""
    logits = queries @ candidates.T / TEMPERATURE
    return nn.functional.cross_entropy(logits, torch.arange(len(queries), device=logits.device))


# --- adapters -------------------------------------------------------------------------------------------------------


def dora(dropout: float) -> Lora:
    """Return the paper's adapter: DoRA of rank 8."""
    return Lora(TARGETS, dropout=dropout, dora=True)


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the trained parameters by their path from the layers on, which no wrapper of the model changes."""
    gradients = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    return {name[name.index("layers.") :]: gradients[name] for name in sorted(gradients)}


def start(model: nn.Module, seed: int = 1) -> None:
    """Give an adapter the weights of one that has been trained a while: B is 0 at first, and A has no gradient."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in trained(model).items():
        if "magnitude" not in name:
            drawn = torch.randn(parameter.shape, generator=generator) * 0.1 * parameter.shape[1] ** -0.5
            parameter.data.copy_(drawn)


def gradients(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of the gradients, and clear them."""
    gradients = {}
    for name, parameter in trained(model).items():
        assert parameter.grad is not None, name
        gradients[name], parameter.grad = parameter.grad.detach().clone(), None
    return gradients


def gradient_error(gradients: dict[str, Tensor], truth: dict[str, Tensor]) -> float:
    """Return the largest of all parameters' relative errors, in the Euclidean norm."""
    assert set(gradients) == set(truth)
    errors = [
        (gradients[name].double() - reference.double()).norm() / reference.double().norm()
        for name, reference in truth.items()
    ]
    return torch.stack(errors).max().item()


# --- the published scheme -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reference:
    """The published scheme over the same model; `chunk` is the samples of a forward pass, in encoding and in a step."""

    backbone: Backbone
    prompt: Prompt
    chunk: int

    @classmethod
    def load(cls, folder: Path, prompt: Prompt, chunk: int, dtype: Dtype, device: str) -> Reference:
        return cls(load_backbone(folder, ORIGINAL, dtype, device), prompt, chunk)

    def adapted(self, dropout: float) -> Reference:
        backbone = dora(dropout).attach(self.backbone)
        start(backbone.full)
        backbone.full.train()
        return replace(self, backbone=backbone)

    def prepare(self, items: Sequence[Item], role: Role) -> Inputs:
        """Return inputs: one call of the processor for each sample, then padding."""
        processor = self.backbone.processor
        samples = []
        for item in items:
            content, system = content_of(item, role, self.prompt), self.prompt.system.get(role)
            messages = [{"role": "user", "content": content}]
            if system:
                messages.insert(0, {"role": "system", "content": [{"type": "text", "text": system}]})
            text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
            pictures = [part["image"] for part in content if part["type"] == "image"]
            samples.append(processor(text=[text], images=pictures or None, return_tensors="pt"))
        inputs = {}
        for name in {name: None for sample in samples for name in sample}:
            parts = [sample[name] for sample in samples if name in sample]
            if name in ("pixel_values", "image_grid_thw"):
                inputs[name] = torch.cat(parts)
            else:
                filler = processor.tokenizer.pad_token_id if name == "input_ids" else 0
                inputs[name] = nn.utils.rnn.pad_sequence([part[0] for part in parts], True, filler)
        return inputs

    def embed(self, inputs: Inputs) -> Tensor:
        """Return the last token's final hidden state, normalised."""
        device, dtype = self.backbone.device, self.backbone.dtype
        inputs = {key: value.to(device, dtype if value.is_floating_point() else None) for key, value in inputs.items()}
        hidden = self.backbone.full(**inputs, output_hidden_states=True, use_cache=False).hidden_states[-1]
        last = inputs["attention_mask"].sum(1) - 1
        return nn.functional.normalize(hidden[torch.arange(len(hidden), device=device), last].float(), dim=-1)

    @torch.no_grad()
    def encode(self, items: Sequence[Item], role: Role, batch: int | None = None) -> Tensor:
        size = batch or self.chunk
        parts = [items[start : start + size] for start in range(0, len(items), size)]
        return torch.cat([self.embed(self.prepare(part, role)).cpu() for part in parts])

    def step(self, pairs: Sequence[Pair]) -> Tensor:
        """Accumulate the gradient of a batch by caching; return the loss."""
        return self.cached(self.chunks(pairs))

    def cached(self, chunks: Sequence[Inputs]) -> Tensor:
        """Accumulate the gradient of prepared chunks; return the loss."""
        states, embedded = [], []
        with torch.no_grad():
            for chunk in chunks:
                states.append(_random_state(self.backbone.device))
                embedded.append(self.embed(chunk))
        everything = torch.cat(embedded).requires_grad_()
        loss = loss_of(*everything.chunk(2))
        loss.backward()
        assert everything.grad is not None
        for chunk, state, row in zip(chunks, states, everything.grad.split(list(map(len, embedded))), strict=True):
            _set_random_state(self.backbone.device, state)
            (self.embed(chunk) * row).sum().backward()
        return loss.detach()

    def plain_step(self, pairs: Sequence[Pair]) -> Tensor:
        """Accumulate the gradient of the batch in one graph, the truth while dropout is 0; return the loss."""
        loss = loss_of(*torch.cat([self.embed(chunk) for chunk in self.chunks(pairs)]).chunk(2))
        loss.backward()
        return loss.detach()

    def chunks(self, pairs: Sequence[Pair]) -> list[Inputs]:
        return [self.prepare(items, role) for items, role in self.parts(pairs)]

    def parts(self, pairs: Sequence[Pair]) -> list[tuple[list[Item], Role]]:
        """Return the items of each chunk, queries before candidates."""
        sides: list[tuple[Role, list[Item]]] = [
            ("query", [pair.query for pair in pairs]),
            ("candidate", [pair.positive for pair in pairs]),
        ]
        return [
            (items[start : start + self.chunk], role)
            for role, items in sides
            for start in range(0, len(items), self.chunk)
        ]


def content_of(item: Item, role: Role, prompt: Prompt) -> list[dict[str, Any]]:
    """Return the user's message: the item's parts, and the suffix."""
    parts: list[dict[str, Any]] = [
        {"type": "text", "text": part} if isinstance(part, str) else {"type": "image", "image": part.source}
        for part in item.parts
    ]
    if suffix := prompt.suffix.get(role, {}).get("image" if item.pictures else "text"):
        parts.append({"type": "text", "text": suffix})
    return parts


def _random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def _set_random_state(device: torch.device, state: tuple[Tensor, Tensor | None]) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)
