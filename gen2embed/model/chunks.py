"""From items to chunks, each for one pass: packed rows where the model's attention allows them, else padded batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gen2embed.encoding.batch import Chunk, ChunkLimit, Inputs, Prepared
from gen2embed.model.inputs import InputBuilder
from gen2embed.model.packing import Sample, pack
from gen2embed.types import ImagePart, Item
from gen2embed.utils.choices import Role
from gen2embed.utils.errors import UserError

ROWS_AND_COLUMNS = {"qwen2_vl", "qwen2_5_vl", "qwen3_vl"}  # model types that rotate by a token's row and column


@dataclass(frozen=True)
class _Picture:
    """A resized picture.

    Args:
        digest: The digest of its pixels.
        image: The pixels.
        processed: The model's inputs for it.
        slot: The tokens, as text, that fill its slot.
    """

    digest: str
    image: Image.Image
    processed: Inputs
    slot: str


@dataclass(frozen=True)
class Preparer:
    """Makes chunks of items. It needs no weights, and can run in worker processes.

    Args:
        build: Makes token ids and picture inputs.
        packs: Whether it makes packed rows (`packing`) or padded batches.
        branches: Whether samples of a row share equal beginnings.
        dtype: The type of the model's weights; pictures travel in it, since `to_device` would cast them to the same
            bits later.
    """

    build: InputBuilder
    packs: bool
    branches: bool
    dtype: torch.dtype = torch.float32

    def __call__(self, items: Sequence[tuple[Item, Role]], limit: ChunkLimit, share: bool = True) -> Prepared:
        """Return the chunks of items, each in its role.

        1. Find the distinct items, and process each distinct picture once.
        2. Tokenize all items in one call.
        3. Pack or pad those without pictures, then those with pictures.

        Args:
            items: Items with their roles.
            limit: The largest chunk.
            share: Whether equal items are embedded once, and equal beginnings in a packed row stand there once.
        """
        keys: list[object] = [(role, item.key) for item, role in items] if share else list(range(len(items)))
        first: dict[object, tuple[Item, Role]] = {}
        for key, item in zip(keys, items, strict=True):
            first.setdefault(key, item)
        numbers, distinct = {key: number for number, key in enumerate(first)}, list(first.values())
        by_key = self._open([item for item, _ in distinct])
        pictures = [[by_key[picture.key] for picture in item.pictures] for item, _ in distinct]

        slots = [[picture.slot for picture in own] for own in pictures]
        ids, needed = self.build.tokenize(
            [(item, role, own) for (item, role), own in zip(distinct, slots, strict=True)]
        )

        chunks: list[Chunk] = []
        places = torch.empty(len(distinct), dtype=torch.int64)  # of each distinct item among the rows of all chunks
        for pictured in (False, True):
            group = [number for number, own in enumerate(pictures) if bool(own) == pictured]
            arrange = self._packed if self.packs else self._padded
            arranged, within = arrange([(ids[number], pictures[number]) for number in group], limit, share)
            places[group] = within + sum(chunk.rows for chunk in chunks)
            chunks += arranged
        order = [numbers[key] for key in keys]
        return Prepared(
            chunks,
            places[order],
            {picture.digest: picture.processed for picture in by_key.values()} if self.packs else {},
            needed={index: needed[number] for index, number in enumerate(order) if number in needed},
        )

    def _open(self, items: Sequence[Item]) -> dict[str, _Picture]:
        """Return each picture by its key; those of equal pixels are processed once."""
        by_key: dict[str, _Picture] = {}
        by_digest: dict[str, _Picture] = {}
        for item in items:
            if all(picture.key in by_key for picture in item.pictures):
                continue
            for picture, image in zip(item.pictures, self.build.open(item), strict=True):
                digest = ImagePart(image).key
                if digest not in by_digest:
                    processed, slots = self._process(picture, image)
                    by_digest[digest] = _Picture(digest, image, processed, slots[0])
                by_key[picture.key] = by_digest[digest]
        return by_key

    def _process(self, picture: ImagePart, image: Image.Image) -> tuple[Inputs, list[str]]:
        try:
            processed, slots = self.build.process([[image]])
            return self._cast(processed), slots
        except ValueError as error:  # such as for one that is too long
            size = f"{image.width}x{image.height} pixels"
            raise UserError(
                f"the model's image processor does not take the picture {picture}, of {size} after "
                f"resolution={self.build.resolution.policy}: {error}; choose another resolution, or remove it"
            ) from None

    def _cast(self, processed: Inputs) -> Inputs:
        return {
            name: tensor.to(self.dtype) if tensor.is_floating_point() else tensor for name, tensor in processed.items()
        }

    def _packed(
        self, samples: Sequence[tuple[list[int], list[_Picture]]], limit: ChunkLimit, share: bool
    ) -> tuple[list[Chunk], Tensor]:
        rows = [self._sample(np.array(ids), pictures) for ids, pictures in samples]
        return pack(rows, limit, share and self.branches)

    def _sample(self, ids: np.ndarray, pictures: Sequence[_Picture]) -> Sample:
        """Return a sample of a packed row: its tokens under the positions of the prompt's convention."""
        processor = self.build.processor
        visual = np.full(len(ids), -1)
        if pictures:
            counts = [picture.slot.count(processor.image_token) for picture in pictures]
            token = processor.tokenizer.convert_tokens_to_ids(processor.image_token)
            visual[ids == token] = np.repeat(np.arange(len(pictures)), counts)
        sequential = np.arange(len(ids))[None]
        if self.build.model_type not in ROWS_AND_COLUMNS:
            positions = sequential
        elif self.build.prompt.convention == "reference" or not pictures:
            positions = sequential.repeat(3, axis=0)
        else:
            merge = processor.image_processor.merge_size
            grids = [picture.processed["image_grid_thw"][0, 1:].numpy() // merge for picture in pictures]
            positions = rows_and_columns(visual, grids)
        return Sample(ids, positions, tuple(picture.digest for picture in pictures), visual)

    def _padded(
        self, samples: Sequence[tuple[list[int], list[_Picture]]], limit: ChunkLimit, share: bool
    ) -> tuple[list[Chunk], Tensor]:
        """Return padded batches of samples of about equal length."""
        by_length = sorted(range(len(samples)), key=lambda index: len(samples[index][0]))
        groups: list[list[int]] = []
        for index in by_length:
            rows = len(groups[-1]) + 1 if groups else 0
            if not groups or rows * len(samples[index][0]) > limit.tokens or rows > (limit.rows or rows):
                groups.append([])
            groups[-1].append(index)
        chunks = []
        for group in groups:
            pictures = [[picture.image for picture in samples[index][1]] for index in group]
            processed, _ = self.build.process(pictures if pictures[0] else [])
            inputs = self.build.pad([samples[index][0] for index in group], self._cast(processed))
            chunks.append(Chunk(inputs, len(group), bool(pictures[0])))
        return chunks, torch.tensor(by_length).argsort()


def rows_and_columns(visual: np.ndarray, grids: Sequence[np.ndarray]) -> np.ndarray:
    """Return the positions (3, l) of M-RoPE (arXiv 2409.12191, section 2.1) for texts and still pictures.

    A text's token is one further on each axis than the token before it. A picture's tokens share the first axis, and
    count rows and columns on the others. The next text goes on after the larger of the picture's rows and columns.

    Args:
        visual: For each of l tokens, the index of the picture that it belongs to, or -1.
        grids: The rows and columns of each picture, in tokens.
    """
    positions = np.empty((3, len(visual)), np.int64)
    borders = [0, *(np.flatnonzero(np.diff(visual)) + 1), len(visual)]
    next_position = 0
    for start, end in pairwise(borders):
        if visual[start] < 0:
            positions[:, start:end] = np.arange(end - start) + next_position
            next_position += end - start
        else:
            height, width = grids[visual[start]]
            row, column = np.divmod(np.arange(end - start), width)
            positions[:, start:end] = next_position + np.stack([np.zeros_like(row), row, column])
            next_position += int(max(height, width))
    return positions
