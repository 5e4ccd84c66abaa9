"""From items to chunks, each for one pass of a model: packed rows where its attention allows them, else padded ones."""

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

ROWS_AND_COLUMNS = {"qwen2_vl", "qwen2_5_vl", "qwen3_vl"}  # model types that rotate by both within a picture


@dataclass(frozen=True)
class _Ready:
    """A picture in its size; `processed` as the model takes it, `slot` what stands for it among the tokens."""

    digest: str
    image: Image.Image
    processed: Inputs
    slot: str


@dataclass(frozen=True)
class Preparer:
    """What of embedding needs no model, and can run in worker processes.

    packs: make packed rows (`packing`). branches: let samples of a row share what they begin alike.
    dtype: of the model, in which pictures travel; `moved` would cast them later to the same bits.
    """

    build: InputBuilder
    packs: bool
    branches: bool
    dtype: torch.dtype = torch.float32

    def __call__(self, items: Sequence[tuple[Item, Role]], limit: ChunkLimit, share: bool = True) -> Prepared:
        """Chunks of items, each in its role.

        share: embed equal items once, and what packed ones begin alike.
        """
        keys: list[object] = [(role, item.key) for item, role in items] if share else list(range(len(items)))
        first: dict[object, tuple[Item, Role]] = {}
        for key, item in zip(keys, items, strict=True):
            first.setdefault(key, item)
        numbers, distinct = {key: number for number, key in enumerate(first)}, list(first.values())
        ready = self._ready([item for item, _ in distinct])
        its = [[ready[picture.key] for picture in item.pictures] for item, _ in distinct]
        rows = [
            (item, role, [one.slot for one in pictures]) for (item, role), pictures in zip(distinct, its, strict=True)
        ]
        ids, needed = self.build.tokenize(rows)
        chunks: list[Chunk] = []
        places = torch.empty(len(distinct), dtype=torch.int64)
        for pictured in (False, True):
            group = [at for at, pictures in enumerate(its) if bool(pictures) == pictured]
            make = self._packed if self.packs else self._padded
            made, within = make([(ids[at], its[at]) for at in group], limit, share)
            places[group] = within + sum(chunk.rows for chunk in chunks)
            chunks += made
        pictures = {one.digest: one.processed for one in ready.values()} if self.packs else {}
        order = [numbers[key] for key in keys]
        cut = {at: needed[number] for at, number in enumerate(order) if number in needed}
        return Prepared(chunks, places[order], pictures, cut=cut)

    def _ready(self, items: Sequence[Item]) -> dict[str, _Ready]:
        """Each picture by its key; those of the same pixels are processed once."""
        by_key: dict[str, _Ready] = {}
        by_digest: dict[str, _Ready] = {}
        for item in items:
            if all(picture.key in by_key for picture in item.pictures):
                continue
            for picture, image in zip(item.pictures, self.build.open(item), strict=True):
                digest = ImagePart(image).key
                if digest not in by_digest:
                    processed, slots = self._process(picture, image)
                    by_digest[digest] = _Ready(digest, image, processed, slots[0])
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
        self, samples: Sequence[tuple[list[int], list[_Ready]]], limit: ChunkLimit, share: bool
    ) -> tuple[list[Chunk], Tensor]:
        rows = [self._sample(np.array(ids), pictures) for ids, pictures in samples]
        return pack(rows, limit, share and self.branches)

    def _sample(self, ids: np.ndarray, pictures: Sequence[_Ready]) -> Sample:
        processor = self.build.processor
        visual = np.full(len(ids), -1)
        if pictures:
            counts = [one.slot.count(processor.image_token) for one in pictures]
            token = processor.tokenizer.convert_tokens_to_ids(processor.image_token)
            visual[ids == token] = np.repeat(np.arange(len(pictures)), counts)
        along = np.arange(len(ids))[None]
        if self.build.model_type not in ROWS_AND_COLUMNS:
            positions = along
        elif self.build.prompt.convention == "reference" or not pictures:
            positions = along.repeat(3, axis=0)
        else:
            merge = processor.image_processor.merge_size
            grids = [one.processed["image_grid_thw"][0, 1:].numpy() // merge for one in pictures]
            positions = rows_and_columns(visual, grids)
        return Sample(ids, positions, tuple(one.digest for one in pictures), visual)

    def _padded(
        self, samples: Sequence[tuple[list[int], list[_Ready]]], limit: ChunkLimit, share: bool
    ) -> tuple[list[Chunk], Tensor]:
        """Sorted by length."""
        by_length = sorted(range(len(samples)), key=lambda at: len(samples[at][0]))
        groups: list[list[int]] = []
        for at in by_length:
            rows = len(groups[-1]) + 1 if groups else 0
            if not groups or rows * len(samples[at][0]) > limit.tokens or rows > (limit.rows or rows):
                groups.append([])
            groups[-1].append(at)
        chunks = []
        for group in groups:
            pictures = [[one.image for one in samples[at][1]] for at in group]
            processed, _ = self.build.process(pictures if pictures[0] else [])
            inputs = self.build.pad([samples[at][0] for at in group], self._cast(processed))
            chunks.append(Chunk(inputs, len(group), bool(pictures[0])))
        return chunks, torch.tensor(by_length).argsort()


def rows_and_columns(visual: np.ndarray, grids: Sequence[np.ndarray]) -> np.ndarray:
    """Positions (3, l) of M-RoPE (arXiv 2409.12191, section 2.1) for texts and still pictures.

    visual (l,): of each token, which picture it belongs to, or -1. grids: of each picture, its rows and columns.
    A text's token is one further on each axis; a picture's tokens share the first, and the next text goes on after the
    larger of its rows and columns.
    """
    positions = np.empty((3, len(visual)), np.int64)
    borders = [0, *(np.flatnonzero(np.diff(visual)) + 1), len(visual)]
    following = 0
    for start, end in pairwise(borders):
        if visual[start] < 0:
            positions[:, start:end] = np.arange(end - start) + following
            following += end - start
        else:
            height, width = grids[visual[start]]
            row, column = np.divmod(np.arange(end - start), width)
            positions[:, start:end] = following + np.stack([np.zeros_like(row), row, column])
            following += int(max(height, width))
    return positions
