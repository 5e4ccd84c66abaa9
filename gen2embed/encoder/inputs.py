"""From items to model inputs: rendered, tokenised, cut to length, padded, with pictures resized and processed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from transformers.processing_utils import ProcessorMixin

from gen2embed import images
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
        pictures = [images.resize(images.load(p), self.resolution.policy) for item in items for p in item.pictures]
        processed = processor.image_processor(images=pictures, return_tensors="pt") if pictures else {}
        slots = iter([processor.replace_image_token(processed, index) for index in range(len(pictures))])
        rows = [self.token_ids(item, role, [next(slots) for _ in item.pictures]) for item in items]
        inputs: Inputs = dict(processor.tokenizer.pad({"input_ids": rows}, return_tensors="pt"))
        if pictures:
            if not all(item.pictures for item in items):
                raise ValueError("items with and without pictures in one batch")
            types = processor.create_mm_token_type_ids(inputs["input_ids"].tolist())
            inputs |= {key: value for key, value in processed.items() if key not in processor.unused_input_names}
            inputs["mm_token_type_ids"] = torch.tensor(types)
        if self.prompt.convention == "reference":
            inputs["position_ids"] = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
        return inputs

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
                visual = sum(len(self._tokenize([Piece("image")], [slot])) for slot in slots)
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
            starts = self._encode_plain(piece.text, return_offsets_mapping=True)["offset_mapping"]
            keep = max(0, len(starts) - excess)
            pieces[index] = replace(piece, text=piece.text[: starts[keep][0]] if keep else "")
            left, excess = True, excess - (len(starts) - keep)
            if excess <= 0:
                break
        return left

    def _tokenize(self, pieces: Sequence[Piece], slots: Sequence[str]) -> list[int]:
        """Special tokens count as such only where the template or the processor wrote them."""
        remaining, image_token = iter(slots), self.processor.image_token
        runs: list[tuple[bool, str]] = []  # (is one special token, text)
        for piece in pieces:
            if piece.kind in ("text", "prompt"):
                parts = [(False, piece.text)]
            else:
                text = (
                    next(remaining) if piece.kind == "image" else image_token if piece.kind == "marker" else piece.text
                )
                parts = [(bool(i % 2), part) for i, part in enumerate(self._special.split(text)) if part]
            for special, text in parts:
                if runs and not special and not runs[-1][0]:
                    runs[-1] = (False, runs[-1][1] + text)
                else:
                    runs.append((special, text))
        plain = [text for special, text in runs if not special]
        encoded = iter(self._encode_plain(plain)["input_ids"] if plain else [])
        convert = self.processor.tokenizer.convert_tokens_to_ids
        return [token for special, text in runs for token in ([convert(text)] if special else next(encoded))]

    def _encode_plain(self, text: str | list[str], **options: Any) -> Any:
        tokenizer = self.processor.tokenizer
        return tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False, **options)

    @cached_property
    def _special(self) -> re.Pattern[str]:
        tokens = {str(token) for token in self.processor.tokenizer.added_tokens_decoder.values()}
        return re.compile("(" + "|".join(re.escape(token) for token in sorted(tokens, key=len, reverse=True)) + ")")

    @cached_property
    def _template(self) -> Template:
        if self.prompt.convention == "reference":
            return reference_template(self.model_type)
        processor = self.processor
        if processor.chat_template is None:
            raise UserError(
                "the model has no chat template, which prompt.convention=native needs; use an instruct model"
            )

        def apply(messages: list[dict]) -> str:
            return processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)

        return chat_template(apply, processor.image_token)
