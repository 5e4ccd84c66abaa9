"""Row 2: the vectors of the device, by every path of attention, against a CPU's in float32."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, get_args

import torch
from ours import encode
from torch import Tensor
from yardstick import Drawn

from gen2embed import Embedder, Item
from gen2embed.model.backbone import Attention
from gen2embed.utils.choices import ROLES
from gpu_rows.bench import make_embedder
from gpu_rows.clock import exact_float32

if TYPE_CHECKING:
    from gpu_rows.bench import Bench

DIFFERENCE, COSINE = 1e-5, 0.999  # goals: of an element of a unit vector; of two vectors


def few_items(side: int) -> list[Item]:
    """Return a few texts and pictures, of several lengths and sizes, some with the same beginning or picture."""
    drawn = Drawn(2)
    pictures = [drawn.picture(side), drawn.picture(side), drawn.picture(side // 2)]
    texts = [drawn.text(1, 3), drawn.text(20, 40), drawn.text(60, 60)]
    pairs = [Item.create(text, picture) for text, picture in zip(texts, (pictures[0], *pictures[:2]), strict=True)]
    return [*map(Item.create, texts), Item.create(texts[0] + " " + texts[1]), *pairs, Item.create("", pictures[2])]


@torch.no_grad()
def one_by_one(embedder: Embedder, items: list[Item]) -> Tensor:
    """Return the vectors in both roles, each item embedded alone and without packing: the truth."""
    return torch.cat([embedder.embed([item], role) for role in ROLES for item in items]).cpu()


def together(embedder: Embedder, items: list[Item]) -> Tensor:
    """Return the vectors in both roles, as the engine embeds them."""
    return torch.cat([encode(embedder, (items, role)) for role in ROLES])


@contextmanager
def attending(embedder: Embedder, attention: str) -> Iterator[None]:
    """Give the model another implementation of attention inside the context; raises what transformers raises."""
    full = embedder.backbone.full
    before = full.config._attn_implementation
    full.set_attn_implementation(attention)
    try:
        yield
    finally:
        full.set_attn_implementation(before)


def cosine(first: Tensor, second: Tensor) -> float:
    """Return the least cosine of two vectors of the same row."""
    return torch.nn.functional.cosine_similarity(first.double(), second.double()).min().item()


def run(bench: Bench) -> None:
    """Record the largest differences in float32, and the least cosines of bfloat16."""
    add, shape = bench.recorder.add, bench.setting.shallow
    items = few_items(bench.setting.side)
    single = make_embedder(shape, torch.float32, bench.device)
    on_cpu = copy.deepcopy(single.backbone.full).cpu()
    on_host = replace(single, backbone=replace(single.backbone, full=on_cpu, model=on_cpu.base_model))
    truth = one_by_one(on_host, items)
    add("mean cosine of two items (near 1, all would look equal)", (truth @ truth.T).mean().item())
    half = make_embedder(shape, torch.bfloat16, bench.device)
    for into, source in zip(half.backbone.full.parameters(), single.backbone.full.parameters(), strict=True):
        into.data.copy_(source)
    with exact_float32():
        alone = (one_by_one(single, items) - truth).abs().max().item()
        add("float32, one by one: largest difference from the CPU", alone, at_most=DIFFERENCE)
        for attention in get_args(Attention):
            for packing in (True, False):
                paths = [replace(embedder, packing=packing) for embedder in (single, half)]
                name = f"{attention}, {'packed' if packing else 'padded'}"
                try:
                    compare(bench, name, attention, paths, items, truth)
                except Exception as error:  # the other paths are still wanted
                    bench.recorder.fail(error, f"{name}: does not run here")


def compare(bench: Bench, name: str, attention: str, paths: list[Embedder], items: list[Item], truth: Tensor) -> None:
    """Record one path of attention, in float32 and in bfloat16."""
    single, half = paths
    if attention == "flash_attention_2":  # it computes in half precision alone
        if bench.device.type != "cuda":
            bench.recorder.note(f"{name}: not here: it needs a GPU")
            return
    else:
        with attending(single, attention):
            off = (together(single, items) - truth).abs().max().item()
        bench.recorder.add(f"float32, {name}: largest difference from the CPU", off, at_most=DIFFERENCE)
    with attending(half, attention):
        least = cosine(together(half, items), truth)
    bench.recorder.add(f"bfloat16, {name}: least cosine to float32", least, at_least=COSINE)
