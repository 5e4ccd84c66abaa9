"""From items to model inputs: rendered, tokenised, cut to length, padded, with pictures resized and processed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cache, cached_property
from itertools import repeat
from typing import TYPE_CHECKING

import torch
from PIL import Image

from gen2embed.data import pictures as images
from gen2embed.encoding.batch import Inputs
from gen2embed.model.prompts import Piece, Prompt, Template, chat_template, reference_template, render
from gen2embed.model.resolution import Resolution, resize
from gen2embed.model.tokens import PromptTokenizer
from gen2embed.types import Item
from gen2embed.utils.choices import Role
from gen2embed.utils.errors import UserError

if TYPE_CHECKING:
    from transformers.processing_utils import ProcessorMixin


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

    def __getstate__(self) -> dict[str, object]:
        """For a worker that is not forked, without what is made on first use: the template cannot be pickled."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def __call__(self, items: Sequence[Item], role: Role) -> Inputs:
        """Inputs of a batch: `input_ids` and `attention_mask` (b, l), and what the family takes for pictures.

        Either all items have pictures or none has: an image token without a picture may stand in a text.
        """
        processed, expanded = self.process([self.open(item) for item in items if item.pictures])
        slots = iter(expanded)
        rows = [self.token_ids(item, role, [next(slots) for _ in item.pictures]) for item in items]
        if processed and not all(item.pictures for item in items):
            raise ValueError("items with and without pictures in one batch")
        return self.pad(rows, processed)

    def open(self, item: Item) -> list[Image.Image]:
        """An item's pictures in their size."""
        return [resize(images.load(picture), self.resolution.policy) for picture in item.pictures]

    def process(self, pictures: Sequence[Sequence[Image.Image]]) -> tuple[Inputs, list[str]]:
        """The pictures of each item as the family takes them, and what it puts into the slot of each."""
        if not pictures:
            return {}, []
        processor = self.processor
        options = getattr(processor, "images_kwargs", {})  # what the family's processor asks its image processor for
        processed = processor.image_processor(images=pictures, return_tensors="pt", **options)
        slots = [processor.replace_image_token(processed, index) for index in range(sum(map(len, pictures)))]
        return {key: value for key, value in processed.items() if key not in processor.unused_input_names}, slots

    def pad(self, rows: Sequence[Sequence[int]], processed: Inputs) -> Inputs:
        """Inputs of a batch from each item's token ids, and of pictures what `process` made of them together."""
        processor = self.processor
        inputs: Inputs = dict(processor.tokenizer.pad({"input_ids": rows}, return_tensors="pt"))
        if processed:
            inputs |= processed
            if processor.return_mm_token_type_ids:
                # Gemma 3 attends both ways inside of a picture where `token_type_ids` says that there is one.
                names = processor.model_input_names
                name = "mm_token_type_ids" if "mm_token_type_ids" in names else "token_type_ids"
                inputs[name] = torch.tensor(processor.create_mm_token_type_ids(inputs["input_ids"].tolist()))
        if self.prompt.convention == "reference":
            inputs["position_ids"] = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
        return inputs

    def token_ids(self, item: Item, role: Role, slots: Sequence[str] | None = None) -> list[int]:
        """Token ids of one item, at most `max_length`.

        slots: what the family puts into each image slot; None works it out from the item's pictures.
        """
        if slots is None:
            _, slots = self.process([self.open(item)] if item.pictures else [])
        return self.tokenize([(item, role, slots)])[0][0]

    def tokenize(self, rows: Sequence[tuple[Item, Role, Sequence[str]]]) -> tuple[list[list[int]], dict[int, int]]:
        """Tokenise many items, each in its role and with its slots, in one call of the tokenizer.

        Returns `token_ids` of each, and by its number the tokens that an item needs, of those longer than `max_length`.
        """
        rendered = [list(render(item, role, self.prompt, self._template)) for item, role, _ in rows]
        written = self._write([(pieces, slots) for pieces, (_, _, slots) in zip(rendered, rows, strict=True)])
        needed = {at: len(ids) for at, ids in enumerate(written) if len(ids) > self.max_length}
        for at in needed:
            item, _, slots = rows[at]
            written[at] = self._shortened(item, rendered[at], slots, written[at])
        return written, needed

    def _shortened(self, item: Item, pieces: list[Piece], slots: Sequence[str], ids: list[int]) -> list[int]:
        while len(ids) > self.max_length:
            if not self._cut(pieces, len(ids) - self.max_length):
                visual = len(ids) - len(self._write([(pieces, [""] * len(slots))])[0])
                raise UserError(
                    f"an input needs {len(ids)} tokens without any of its own text, {visual} of them visual, and "
                    f"max_length is {self.max_length}: {item}; raise max_length or choose a smaller resolution"
                )
            ids = self._write([(pieces, slots)])[0]
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

    def _write(self, rows: Sequence[tuple[Sequence[Piece], Sequence[str]]]) -> list[list[int]]:
        """Token ids of pieces, each with its slots.

        Special tokens count as such only where the template or the processor wrote them.
        """
        parts = []
        for pieces, slots in rows:
            instead = {"image": iter(slots), "marker": repeat(self.processor.image_token)}
            texts = (next(instead[piece.kind]) if piece.kind in instead else piece.text for piece in pieces)
            trusted = (piece.kind not in ("text", "prompt") for piece in pieces)
            parts.append(list(zip(texts, trusted, strict=True)))
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
        from transformers.processing_utils import ProcessorMixin  # noqa: PLC0415  # of which `processor` is one

        @cache  # of the stand-ins for texts there are few
        def rendered(messages: str) -> str:  # the mixin's: SmolVLM's own asks its video processor, if for nothing
            return ProcessorMixin.apply_chat_template(processor, json.loads(messages), add_generation_prompt=True)

        return chat_template(lambda messages: rendered(json.dumps(messages)), processor.image_token)
