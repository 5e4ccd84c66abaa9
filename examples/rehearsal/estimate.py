"""Estimate the memory that the paper's training needs from its configuration, without weights, data or a GPU.

The model has its published size, but consists of PyTorch's fake tensors, which have a shape and a type, but no content.
It runs the largest chunk that the settings allow, as a training step does. `memory.predict` adds the rest. The vision
tower does not run: without a graph it holds less than such a chunk with one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any
from unittest import mock

import torch
import transformers
from hydra.utils import instantiate
from rich.table import Table
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from examples.rehearsal.shapes import PUBLISHED, Qwen2VLShape, qwen2_vl
from gen2embed.config.presets import PACKAGE, compose_shipped, conf_dir
from gen2embed.encoding.batch import Chunk
from gen2embed.model.dora import cached_norms
from gen2embed.model.embedder import Embedder
from gen2embed.model.vision import Features
from gen2embed.shipped.resizing import size_after
from gen2embed.training.memory import LiveBytes, StepMemory, measure_chunk, predict
from gen2embed.utils.memory import readable

CARDS = (24, 40, 48, 80, 96, 141)  # GB, as they are sold
USABLE = 0.9  # share of a card's memory: CUDA and gaps of its allocator take the rest
PICTURES = 2  # pictures of a pair, at most
GPU_TOKENS = 4096  # tokens of a chunk, where the settings leave the number to the device


def experiment_memory(cfg: Any) -> StepMemory:
    """Return the most memory that a rank needs for the training of a composed configuration.

    Its model must be one of `PUBLISHED`, and its resolution one that gives every picture the same size.
    """
    shape = next(shape for shape in PUBLISHED.values() if shape.path == cfg.model.path)
    embedder = _without_weights(cfg, shape)
    full, ranks = embedder.backbone.full, cfg.trainer.devices
    tokens = cfg.batch.chunk_tokens or GPU_TOKENS
    side = 2 * shape.patch  # of a picture's token, whose patches are merged two by two
    width, height = size_after(448, 448, cfg.resolution.policy)
    visual = (width // side) * (height // side)
    items = min(cfg.batch.chunk or tokens, tokens // (visual + 1))
    autocast = partial(torch.autocast, "cpu", dtype=torch.bfloat16, cache_enabled=False)
    half = cfg.trainer.precision == "bf16-mixed"
    with _no_checks(), FakeTensorMode():
        _materialise(full)
        seen = Features(torch.empty(visual, shape.hidden, dtype=embedder.backbone.dtype))
        chunk = _chunk(items, tokens)
        embed = partial(embedder.embed_chunk, chunk, {}, dict.fromkeys(chunk.pictures, seen))
        full.train()
        with autocast() if half else nullcontext(), cached_norms(full):
            with torch.no_grad(), LiveBytes() as first:
                embed()
            measured = measure_chunk(embed, full.parameters())
    pairs = cfg.batch.pairs // ranks
    held = max(PICTURES * pairs * seen.nbytes, int(cfg.model.picture_cache_gib * 2**30))
    vectors = 2 * pairs * shape.hidden * torch.float32.itemsize
    return predict(full.parameters(), [measured], vectors=vectors, features=held, others=first.peak, ranks=ranks)


def _without_weights(cfg: Any, shape: Qwen2VLShape) -> Embedder:
    """Return an embedder of a published size, with the adapter that `cfg` trains, on the meta device."""
    tiny = Embedder.from_pretrained(PACKAGE / "tiny" / "checkpoint", device="cpu")
    config = qwen2_vl(shape, tiny.backbone.tokenizer, rows=shape.rows)
    with torch.device("meta"):
        full = transformers.Qwen2VLForConditionalGeneration._from_config(config, dtype=getattr(torch, cfg.model.dtype))
    backbone = replace(tiny.backbone, full=full.requires_grad_(False), model=full.base_model)
    backbone = instantiate(cfg.adapter).attach(backbone)
    if cfg.batch.gradient_checkpointing:
        backbone.full.activation_checkpointing_enable({"use_reentrant": False})
    return replace(tiny, backbone=backbone)


def _chunk(items: int, tokens: int) -> Chunk:
    """Return a packed row of `tokens` tokens in all, of items that share no token and have a picture each."""
    length = tokens // items
    ends = (torch.arange(items) + 1) * length
    inputs = {
        "input_ids": torch.zeros(1, items * length, dtype=torch.int64),
        "position_ids": torch.arange(length).repeat(items).expand(3, 1, -1),
        "ends": ends.repeat_interleave(length),
        "last": ends - 1,
    }
    return Chunk(inputs, items, pictured=True, pictures=tuple(map(str, range(items))))


def _materialise(model: nn.Module) -> None:
    """Replace the weights by fake tensors on the CPU; autocast and attention do not know the meta device."""
    replaced: dict[nn.Parameter, nn.Parameter] = {}  # tied parameters stay tied
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and parameter not in replaced:
                empty = torch.empty(parameter.shape, dtype=parameter.dtype)
                replaced[parameter] = nn.Parameter(empty, requires_grad=parameter.requires_grad)
            module._parameters[name] = None if parameter is None else replaced[parameter]
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else torch.empty(buffer.shape, dtype=buffer.dtype)


@contextmanager
def _no_checks() -> Iterator[None]:
    """Switch off the checks of transformers that read values, such as the number of image tokens."""
    with mock.patch.dict(os.environ, {"TRANSFORMERS_DISABLE_TORCH_CHECK": "1"}):
        yield


def memory_table() -> Table:
    """Return a table of the memory of a rank of each `paper_train_*` experiment, and the cards that it fits."""
    table = Table(title="memory of a rank, at most")
    for column in ("experiment", "weights", "features", "chunk", "in all", "cards"):
        table.add_column(column, justify="left" if column in ("experiment", "cards") else "right")
    for file in sorted((conf_dir() / "experiment").glob("paper_train_*.yaml")):
        needed = experiment_memory(compose_shipped("train", [f"experiment={file.stem}"]))
        sizes = (needed.weights, needed.features, needed.workspace, needed.total)
        table.add_row(file.stem, *map(readable, sizes), ", ".join(f"{card} GB" for card in fitting(needed.total)))
    return table


def fitting(size: int) -> list[int]:
    """Return the cards, in GB, that a rank of `size` bytes fits."""
    return [card for card in CARDS if size <= USABLE * card * 2**30]
