"""Packing: many samples in one row of tokens, without padding; a beginning that several share stands there once.

Sorted samples form a tree of tokens. Samples that begin alike share the branch up to where they differ: a prompt, a
picture under two questions, or all of it. The row is that tree, depth first. A token attends to the tokens before it on
its own branch, and keeps the position that it has in its sample. Under causal attention this is the same as the sample
alone, so the hidden state is the same.

In a row that is written depth first, the tokens below token j are those up to an `end` that belongs to j, so

    i attends to j   if and only if   j <= i < end[j].

For example, the samples `a b c`, `a b d` and `e` are the row

    token   a b c d e
    index   0 1 2 3 4
    end     4 4 3 4 5

in which d (3) attends to a (0) and b (1), since 3 < 4, and not to c (2), since 3 >= 3.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from gen2embed.encoding.batch import Chunk, ChunkLimit


@dataclass(frozen=True)
class Sample:
    """The l tokens of an item.

    Args:
        ids: Token ids.
        positions: Position ids; p is 3 if the model rotates by row and column of a picture, else 1.
        pictures: Digests of its pictures, in order.
        visual: For each token, the index of the picture that it belongs to, or -1.
    """

    ids: Int[np.ndarray, " l"]
    positions: Int[np.ndarray, "p l"]
    pictures: tuple[str, ...]
    visual: Int[np.ndarray, " l"]


def pack(samples: Sequence[Sample], limit: ChunkLimit, share: bool = True) -> tuple[list[Chunk], Int[Tensor, " n"]]:
    """Pack samples into chunks of one row each.

    Args:
        samples: Samples that all have pictures, or all have none.
        limit: The largest chunk.
        share: Whether equal beginnings stand once; equal samples then share a vector.

    Returns:
        The chunks, and for each sample the index of its vector among those of all chunks.
    """
    numbers = {digest: number for number, digest in enumerate(dict.fromkeys(d for s in samples for d in s.pictures))}
    codes = [_code(sample, numbers) for sample in samples]
    sequence = list(range(len(samples)))
    if share:
        sequence.sort(key=lambda index: codes[index].tobytes())
    chunks: list[Chunk] = []
    placed = np.empty(len(samples), np.int64)
    rows = 0
    for group in _groups(sequence, codes, limit, share):
        chunk, vectors = _row([samples[index] for index, _ in group], [shared for _, shared in group])
        placed[[index for index, _ in group]] = vectors + rows
        rows += chunk.rows
        chunks.append(chunk)
    return chunks, torch.from_numpy(placed)


def attention_inputs(
    ends: Int[Tensor, " t"], ends_on_cpu: Int[Tensor, " t"], attention: str, dtype: torch.dtype
) -> dict[str, Any]:
    """Return the arguments of a model's forward by which the tokens of a packed row attend to their own branch.

    Args:
        ends: The row's ends, where the model runs.
        ends_on_cpu: The same on the CPU.
        attention: The model's attention implementation.
        dtype: The type of the model.
    """
    if attention == "flash_attention_2":
        return sample_lengths(ends_on_cpu, ends.device)
    mask = attention_mask(ends)
    if attention == "eager":  # which adds the mask to the scores
        mask = torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, -torch.inf)
    return {"attention_mask": mask}


def attention_mask(ends: Int[Tensor, " t"]) -> Bool[Tensor, "1 1 t t"]:
    """Return which tokens of a packed row attend to which: the mask of the module's rule."""
    tokens = torch.arange(len(ends), device=ends.device)
    return ((tokens <= tokens[:, None]) & (tokens[:, None] < ends))[None, None]


def sample_lengths(ends: Int[Tensor, " t"], device: torch.device) -> dict[str, Any]:
    """Return FlashAttention's arguments for the samples of a row that share nothing.

    Args:
        ends: The row's ends, on the CPU, so that nothing waits for a GPU.
        device: The device of the kernels.
    """
    borders = torch.cat([ends.new_zeros(1), ends.unique_consecutive()]).int()
    longest = int(borders.diff().max())
    borders = borders.to(device, non_blocking=True)
    return {"cu_seq_lens_q": borders, "cu_seq_lens_k": borders, "max_length_q": longest, "max_length_k": longest}


def _code(sample: Sample, numbers: dict[str, int]) -> np.ndarray:
    """Return a code for each token, which sorts as bytes: its id, or for a visual token the number of its picture."""
    of_picture = np.array([-1 - numbers[digest] for digest in sample.pictures] or [0])
    return np.where(sample.visual < 0, sample.ids, of_picture[sample.visual]).astype(">i8")


def _groups(
    sequence: Sequence[int], codes: Sequence[np.ndarray], limit: ChunkLimit, share: bool
) -> Iterator[list[tuple[int, int]]]:
    """Yield the samples of each row, with how many tokens each shares with the sample before it."""
    group: list[tuple[int, int]] = []
    tokens = rows = 0
    for index in sequence:
        shared = _common(codes[group[-1][0]], codes[index]) if group and share else 0
        new = len(codes[index]) - shared
        equal = shared == len(codes[index]) == len(codes[group[-1][0]]) if group else False
        if group and not equal and (tokens + new > limit.tokens or rows == limit.rows):
            yield group
            group, tokens, rows, shared, new = [], 0, 0, 0, len(codes[index])
        group.append((index, shared))
        tokens, rows = tokens + new, rows + (not equal)
    if group:
        yield group


def _common(first: np.ndarray, second: np.ndarray) -> int:
    """Return the length of the equal beginning of two arrays."""
    shorter = min(len(first), len(second))
    differing = np.flatnonzero(first[:shorter] != second[:shorter])
    return int(differing[0]) if len(differing) else shorter


def _row(samples: Sequence[Sample], shared: Sequence[int]) -> tuple[Chunk, np.ndarray]:
    """Return one row of samples in depth-first order, and for each sample the index of its vector.

    Args:
        samples: The samples.
        shared: How many tokens each shares with the sample before it.
    """
    ids, positions, pictures = list[np.ndarray](), list[np.ndarray](), list[str]()
    ends = np.empty(sum(len(s.ids) - count for s, count in zip(samples, shared, strict=True)), np.int64)
    lasts: list[int] = []
    vectors: list[int] = []
    branch = np.empty(0, np.int64)  # indices in the row of the tokens of the sample before
    tokens = 0
    for sample, count in zip(samples, shared, strict=True):
        ends[branch[count:]] = tokens  # the branch ends where the next sample leaves it
        new = np.arange(tokens, tokens + len(sample.ids) - count)
        branch, tokens = np.concatenate([branch[:count], new]), tokens + len(new)
        ids.append(sample.ids[count:])
        positions.append(sample.positions[:, count:])
        seen = int(sample.visual[:count].max(initial=-1)) + 1
        pictures += sample.pictures[seen:]
        if not lasts or lasts[-1] != branch[-1]:
            lasts.append(int(branch[-1]))
        vectors.append(len(lasts) - 1)
    ends[branch] = tokens
    position_ids = torch.from_numpy(np.concatenate(positions, axis=1))
    inputs = {
        "input_ids": torch.from_numpy(np.concatenate(ids))[None],
        "position_ids": position_ids if len(position_ids) == 1 else position_ids[:, None],
        "ends": torch.from_numpy(ends),
        "last": torch.tensor(lasts),
    }
    return Chunk(inputs, len(lasts), bool(samples[0].pictures), tuple(pictures)), np.array(vectors)
