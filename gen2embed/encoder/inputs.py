"""From items to model inputs: rendered, tokenised, cut to length, padded, with pictures resized and processed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from transformers.processing_utils import ProcessorMixin

from gen2embed import images
from gen2embed.encoder.tokens import PromptTokenizer
from gen2embed.images import Resolution
from gen2embed.prompts import Piece, Prompt, Template, chat_template, reference_template, render
from gen2embed.types import Inputs, Item, Role, UserError


@dataclass(frozen=True)
class InputBuilder:
    """Builds the inputs of a model family under a prompt and a resolution; the only code that does.

    processor: tokenizer, image processor, and what the family puts into an image slot.
    max_length: in tokens. A longer item loses the end of its own text; never visual tokens, prompt or template.
    """

    processor: ProcessorMixin
    model_type: str
    prompt: Prompt
    resolution: Resolution
    max_length: int

    def __call__(self, items: Sequence[Item], role: Role) -> Inputs:
        """Inputs of a batch: `input_ids` and `attention_mask` (b, l), and what the family takes for pictures.

        Either all items have pictures or none has: an image token without a picture may stand in a text.
        """
        processor = self.processor
        processed, expanded = self._process([item for item in items if item.pictures])
        slots = iter(expanded)
        rows = [self.token_ids(item, role, [next(slots) for _ in item.pictures]) for item in items]
        inputs: Inputs = dict(processor.tokenizer.pad({"input_ids": rows}, return_tensors="pt"))
        if processed:
            if not all(item.pictures for item in items):
                raise ValueError("items with and without pictures in one batch")
            inputs |= {key: value for key, value in processed.items() if key not in processor.unused_input_names}
            if processor.return_mm_token_type_ids:
                # Gemma 3 attends both ways inside of a picture where `token_type_ids` says that there is one.
                names = processor.model_input_names
                name = "mm_token_type_ids" if "mm_token_type_ids" in names else "token_type_ids"
                inputs[name] = torch.tensor(processor.create_mm_token_type_ids(inputs["input_ids"].tolist()))
        if self.prompt.convention == "reference":
            inputs["position_ids"] = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
        return inputs

    def _process(self, items: Sequence[Item]) -> tuple[Mapping[str, Any], list[str]]:
        """The pictures as the family takes them, and what it puts into the slot of each."""
        pictures = [[images.resize(images.load(p), self.resolution.policy) for p in item.pictures] for item in items]
        if not pictures:
            return {}, []
        processor = self.processor
        options = getattr(processor, "images_kwargs", {})  # what the family's processor asks its image processor for
        processed = processor.image_processor(images=pictures, return_tensors="pt", **options)
        count = sum(map(len, pictures))
        return processed, [processor.replace_image_token(processed, index) for index in range(count)]

    def token_ids(self, item: Item, role: Role, slots: Sequence[str] | None = None) -> list[int]:
        """Token ids of one item, at most `max_length`.

        slots: what the family puts into each image slot; None works it out from the item's pictures.
        """
        if slots is None:
            inputs = self([item], role)
            return inputs["input_ids"][0][inputs["attention_mask"][0].bool()].tolist()
        pieces = list(render(item, role, self.prompt, self._template))
        while len(ids := self._tokenize(pieces, slots)) > self.max_length:
            if not self._cut(pieces, len(ids) - self.max_length):
                visual = len(ids) - len(self._tokenize(pieces, [""] * len(slots)))
                raise UserError(
                    f"an input needs {len(ids)} tokens without any of its own text, {visual} of them visual, and "
                    f"max_length is {self.max_length}: {item}; raise max_length or choose a smaller resolution"
                )
        return ids

    def _cut(self, pieces: list[Piece], excess: int) -> bool:
        """Shorten the item's texts from the end by about `excess` tokens; False if there is no text left to cut."""
        left = False
        for index in reversed(range(len(pieces))):
            piece = pieces[index]
            if piece.kind != "text" or not piece.text:
                continue
            starts = self._tokenizer.starts(piece.text)
            keep = max(0, len(starts) - excess)
            pieces[index] = replace(piece, text=piece.text[: starts[keep]] if keep else "")
            left, excess = True, excess - (len(starts) - keep)
            if excess <= 0:
                break
        return left

    def _tokenize(self, pieces: Sequence[Piece], slots: Sequence[str]) -> list[int]:
        """Special tokens count as such only where the template or the processor wrote them."""
        remaining = iter(slots)
        parts = []
        for piece in pieces:
            text = piece.text
            if piece.kind == "image":
                text = next(remaining)
            elif piece.kind == "marker":
                text = self.processor.image_token
            parts.append((text, piece.kind not in ("text", "prompt")))
        return self._tokenizer(parts)

    @cached_property
    def _tokenizer(self) -> PromptTokenizer:
        tokenizer = self.processor.tokenizer
        visual = tokenizer.convert_ids_to_tokens([i for i in self.processor.image_token_ids if i is not None])
        return PromptTokenizer.of(tokenizer, {self.processor.image_token, *visual})

    @cached_property
    def _template(self) -> Template:
        if self.prompt.convention == "reference":
            return reference_template(self.model_type)
        processor = self.processor
        if processor.chat_template is None:
            raise UserError(
                "the model has no chat template, which prompt.convention=native needs; use an instruct model"
            )

        def apply(messages: list[dict]) -> str:  # the mixin's: SmolVLM's own asks its video processor, if for nothing
            return ProcessorMixin.apply_chat_template(processor, messages, add_generation_prompt=True)

        return chat_template(apply, processor.image_token)
