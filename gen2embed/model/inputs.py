"""From items to model inputs.

An item is rendered under the prompt, tokenized and truncated to `max_length`; its pictures are resized and go through
the model's image processor. `InputBuilder` is the only code that does this. `pad` makes a batch of rows of tokens, with
their positions under `reference`; `chunks.Preparer` makes packed rows of the same tokens.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cache, cached_property
from itertools import repeat
from typing import TYPE_CHECKING

import torch
from PIL import Image

from gen2embed.data.pictures import load_picture
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
    """Build the inputs of a model family under a prompt and a resolution.

    Args:
        processor: The tokenizer, the image processor, and what the family writes into an image slot.
        model_type: The family, as config.json names it.
        prompt: Both levels of the prompt, and the convention.
        resolution: The size of pictures before the image processor.
        max_length: Tokens of an item. A longer one loses the end of its own text; never visual tokens or the prompt.
    """

    processor: ProcessorMixin
    model_type: str
    prompt: Prompt
    resolution: Resolution
    max_length: int

    def __getstate__(self) -> dict[str, object]:
        """Pickle the fields alone for a worker that is not forked, as the cached template cannot be pickled."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def __call__(self, items: Sequence[Item], role: Role) -> Inputs:
        """Return a padded batch: `input_ids` and `attention_mask` (b, l), and the family's picture inputs.

        Either all items have pictures or none has, as a text may hold an image token without a picture.
        """
        processed, slots = self.process([self.open(item) for item in items if item.pictures])
        remaining_slots = iter(slots)
        rows = [self.token_ids(item, role, [next(remaining_slots) for _ in item.pictures]) for item in items]
        if processed and not all(item.pictures for item in items):
            raise ValueError("items with and without pictures in one batch")
        return self.pad(rows, processed)

    # --- pictures -----------------------------------------------------------------------------------------------------

    def open(self, item: Item) -> list[Image.Image]:
        """Return an item's pictures, resized."""
        return [resize(load_picture(picture), self.resolution.policy) for picture in item.pictures]

    def process(self, pictures: Sequence[Sequence[Image.Image]]) -> tuple[Inputs, list[str]]:
        """Process the pictures of several items.

        Args:
            pictures: The resized pictures of each item.

        Returns:
            The family's picture inputs, and for each picture the tokens, as text, that fill its slot.
        """
        if not pictures:
            return {}, []
        processor = self.processor
        options = getattr(processor, "images_kwargs", {})  # what the family's processor asks its image processor for
        processed = processor.image_processor(images=pictures, return_tensors="pt", **options)
        slots = [processor.replace_image_token(processed, index) for index in range(sum(map(len, pictures)))]
        return {key: value for key, value in processed.items() if key not in processor.unused_input_names}, slots

    def pad(self, rows: Sequence[Sequence[int]], processed: Inputs) -> Inputs:
        """Return a padded batch of token ids, with the picture inputs that `process` made for all of it.

        Under `reference`, the tokens of a row have the positions 0, 1, 2, ...; under `native`, the model chooses them.
        """
        processor = self.processor
        inputs: Inputs = dict(processor.tokenizer.pad({"input_ids": rows}, return_tensors="pt"))
        if processed:
            inputs |= processed
            if processor.return_mm_token_type_ids:
                # Gemma 3 attends both ways inside a picture where `token_type_ids` says that there is one.
                names = processor.model_input_names
                name = "mm_token_type_ids" if "mm_token_type_ids" in names else "token_type_ids"
                inputs[name] = torch.tensor(processor.create_mm_token_type_ids(inputs["input_ids"].tolist()))
        if self.prompt.convention == "reference":
            inputs["position_ids"] = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
        return inputs

    # --- tokens -------------------------------------------------------------------------------------------------------

    def token_ids(self, item: Item, role: Role, slots: Sequence[str] | None = None) -> list[int]:
        """Return the token ids of one item, at most `max_length`.

        Args:
            item: The item.
            role: Its role.
            slots: What fills each image slot; None processes the item's pictures to find out.
        """
        if slots is None:
            _, slots = self.process([self.open(item)] if item.pictures else [])
        return self.tokenize([(item, role, slots)])[0][0]

    def tokenize(self, rows: Sequence[tuple[Item, Role, Sequence[str]]]) -> tuple[list[list[int]], dict[int, int]]:
        """Tokenize many items, each in its role and with its slots, in one call of the tokenizer.

        Returns:
            The token ids of each item, at most `max_length`; and by index, for the items that were truncated, how many
            tokens they need.
        """
        rendered = [list(render(item, role, self.prompt, self._template)) for item, role, _ in rows]
        ids = self._encode([(pieces, slots) for pieces, (_, _, slots) in zip(rendered, rows, strict=True)])
        needed = {index: len(row) for index, row in enumerate(ids) if len(row) > self.max_length}
        for index in needed:
            item, _, slots = rows[index]
            ids[index] = self._truncate(item, rendered[index], slots, ids[index])
        return ids, needed

    def _truncate(self, item: Item, pieces: list[Piece], slots: Sequence[str], ids: list[int]) -> list[int]:
        """Shorten the item's own text until its token ids fit.

        A cut changes how the end of the text is tokenized, so one cut by `_shorten` may leave some tokens too many.
        """
        while len(ids) > self.max_length:
            if not self._shorten(pieces, len(ids) - self.max_length):
                visual_count = len(ids) - len(self._encode([(pieces, [""] * len(slots))])[0])
                raise UserError(
                    f"an input needs {len(ids)} tokens without any of its own text, {visual_count} of them visual, and "
                    f"max_length is {self.max_length}: {item}; raise max_length or choose a smaller resolution"
                )
            ids = self._encode([(pieces, slots)])[0]
        return ids

    def _shorten(self, pieces: list[Piece], excess: int) -> bool:
        """Remove about `excess` tokens from the end of the item's texts, in place; return False if no text is left."""
        shortened = False
        for index in reversed(range(len(pieces))):
            piece = pieces[index]
            if piece.kind != "text" or not piece.text:
                continue
            starts = self._tokenizer.starts(piece.text)
            kept = max(0, len(starts) - excess)
            pieces[index] = replace(piece, text=piece.text[: starts[kept]] if kept else "")
            shortened, excess = True, excess - (len(starts) - kept)
            if excess <= 0:
                break
        return shortened

    def _encode(self, rows: Sequence[tuple[Sequence[Piece], Sequence[str]]]) -> list[list[int]]:
        """Return the token ids of pieces with their slots; only template and processor may write special tokens."""
        parts = []
        for pieces, slots in rows:
            fillings = {"image": iter(slots), "marker": repeat(self.processor.image_token)}
            texts = (next(fillings[piece.kind]) if piece.kind in fillings else piece.text for piece in pieces)
            trusted = (piece.kind not in ("text", "prompt") for piece in pieces)
            parts.append(list(zip(texts, trusted, strict=True)))
        return self._tokenizer(parts)

    @cached_property
    def _tokenizer(self) -> PromptTokenizer:
        tokenizer = self.processor.tokenizer
        visual_tokens = tokenizer.convert_ids_to_tokens([i for i in self.processor.image_token_ids if i is not None])
        return PromptTokenizer.from_tokenizer(tokenizer, {self.processor.image_token, *visual_tokens})

    @cached_property
    def _template(self) -> Template:
        if self.prompt.convention == "reference":
            return reference_template(self.model_type)
        processor = self.processor
        if processor.chat_template is None:
            raise UserError(
                "the model has no chat template, which prompt.convention=native needs; use an instruct model"
            )
        from transformers.processing_utils import ProcessorMixin  # noqa: PLC0415  # imported with every processor

        @cache  # messages hold placeholders for texts, so there are few different ones
        def render_chat(messages: str) -> str:  # the mixin's method, as SmolVLM's own asks for a video processor
            return ProcessorMixin.apply_chat_template(processor, json.loads(messages), add_generation_prompt=True)

        return chat_template(lambda messages: render_chat(json.dumps(messages)), processor.image_token)
