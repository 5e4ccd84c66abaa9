"""Packing: many samples in one row of tokens, without padding, and each beginning that they share only once.

Sorted, samples form a tree of tokens: those that begin alike share the branch to where they differ, be it a prompt, a
picture under two questions, or all of it. The row is that tree, depth first. A token attends to the tokens on its own
branch before it, and keeps the position that it has in its sample. Under causal attention it cannot tell this from the
sample alone, so its hidden state is the same.

In a row that is written depth first, the tokens below token j are those up to an `end` of its own, so

    i attends to j   if and only if   j <= i < end[j].
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
    """An item as a model reads it.

    ids: of its l tokens. positions (p, l): of each, p is 3 where the model rotates by row and column of a picture.
    pictures: digests, in order. visual (l,): for each token, which of the pictures it belongs to, or -1.
    """

    ids: Int[np.ndarray, " l"]
    positions: Int[np.ndarray, "p l"]
    pictures: tuple[str, ...]
    visual: Int[np.ndarray, " l"]


def pack(samples: Sequence[Sample], limit: ChunkLimit, share: bool = True) -> tuple[list[Chunk], Int[Tensor, " n"]]:
    """Chunks of one row each, and the place of each sample among their rows.

    samples: all with pictures, or all without. share: put what they begin alike only once; equal samples give one row.
    """
    numbers = {digest: number for number, digest in enumerate(dict.fromkeys(d for s in samples for d in s.pictures))}
    codes = [_code(sample, numbers) for sample in samples]
    sequence = list(range(len(samples)))
    if share:
        sequence.sort(key=lambda at: codes[at].tobytes())
    chunks: list[Chunk] = []
    placed = np.empty(len(samples), np.int64)
    rows = 0
    for group in _groups(sequence, codes, limit, share):
        chunk, its = _row([samples[at] for at, _ in group], [shared for _, shared in group])
        placed[[at for at, _ in group]] = its + rows
        rows += chunk.rows
        chunks.append(chunk)
    return chunks, torch.from_numpy(placed)


def visible(ends: Int[Tensor, " t"]) -> Bool[Tensor, "1 1 t t"]:
    """Which tokens of a packed row attend to which."""
    at = torch.arange(len(ends), device=ends.device)
    return ((at <= at[:, None]) & (at[:, None] < ends))[None, None]


def lengths(ends: Int[Tensor, " t"], device: torch.device) -> dict[str, Any]:
    """Where the samples of a row begin and end that share nothing, in the words of FlashAttention's kernels.

    ends: on the CPU, so that nobody waits for a GPU.
    """
    borders = torch.cat([ends.new_zeros(1), ends.unique_consecutive()]).int()
    longest = int(borders.diff().max())
    borders = borders.to(device, non_blocking=True)
    return {"cu_seq_lens_q": borders, "cu_seq_lens_k": borders, "max_length_q": longest, "max_length_k": longest}


def _code(sample: Sample, numbers: dict[str, int]) -> np.ndarray:
    """Equal where samples are, and sorted as bytes: the ids, and for a visual token the number of its picture."""
    of_picture = np.array([-1 - numbers[digest] for digest in sample.pictures] or [0])
    return np.where(sample.visual < 0, sample.ids, of_picture[sample.visual]).astype(">i8")


def _groups(
    sequence: Sequence[int], codes: Sequence[np.ndarray], limit: ChunkLimit, share: bool
) -> Iterator[list[tuple[int, int]]]:
    """Cut a sequence of samples where a row is full; of each, how many tokens it shares with the one before it."""
    group: list[tuple[int, int]] = []
    tokens = rows = 0
    for at in sequence:
        shared = _common(codes[group[-1][0]], codes[at]) if group and share else 0
        new = len(codes[at]) - shared
        again = shared == len(codes[at]) == len(codes[group[-1][0]]) if group else False
        if group and not again and (tokens + new > limit.tokens or rows == limit.rows):
            yield group
            group, tokens, rows, shared, new = [], 0, 0, 0, len(codes[at])
        group.append((at, shared))
        tokens, rows = tokens + new, rows + (not again)
    if group:
        yield group


def _common(one: np.ndarray, other: np.ndarray) -> int:
    """How many elements they begin with alike."""
    shorter = min(len(one), len(other))
    differing = np.flatnonzero(one[:shorter] != other[:shorter])
    return int(differing[0]) if len(differing) else shorter


def _row(samples: Sequence[Sample], shared: Sequence[int]) -> tuple[Chunk, np.ndarray]:
    """One row of samples in depth-first order, and for each sample which of the row's vectors is its own."""
    ids, positions, pictures = list[np.ndarray](), list[np.ndarray](), list[str]()
    ends = np.empty(sum(len(s.ids) - count for s, count in zip(samples, shared, strict=True)), np.int64)
    lasts: list[int] = []
    its: list[int] = []
    branch = np.empty(0, np.int64)  # where the tokens of the sample before stand
    tokens = 0
    for sample, count in zip(samples, shared, strict=True):
        ends[branch[count:]] = tokens
        new = np.arange(tokens, tokens + len(sample.ids) - count)
        branch, tokens = np.concatenate([branch[:count], new]), tokens + len(new)
        ids.append(sample.ids[count:])
        positions.append(sample.positions[:, count:])
        seen = int(sample.visual[:count].max(initial=-1)) + 1
        pictures += sample.pictures[seen:]
        if not lasts or lasts[-1] != branch[-1]:
            lasts.append(int(branch[-1]))
        its.append(len(lasts) - 1)
    ends[branch] = tokens
    at = torch.from_numpy(np.concatenate(positions, axis=1))
    inputs = {
        "input_ids": torch.from_numpy(np.concatenate(ids))[None],
        "position_ids": at if len(at) == 1 else at[:, None],
        "ends": torch.from_numpy(ends),
        "last": torch.tensor(lasts),
    }
    return Chunk(inputs, len(lasts), bool(samples[0].pictures), tuple(pictures)), np.array(its)
