"""A cached step at a published model's width, in a process of its own: what was predicted, and what it really held.

    python tests/helpers/true_width.py 2b

Two layers of Qwen2-VL with random weights and a small vocabulary, the paper's adapter and precision, and one chunk of
the paper's: four items with a picture of 448 x 448 pixels. The prediction is that of the table at the start of a run.
What is held comes from the kernel: the peak of the resident memory over the level before the step. `plain` is that of a
step without `cached_norms`. Prints all in MiB.
"""

from __future__ import annotations

import ctypes
import gc
import json
import sys
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import torch
import transformers
from PIL import Image
from torch import Tensor

from examples.rehearsal.shapes import PUBLISHED, qwen2_vl
from gen2embed import Embedder, Item
from gen2embed.config.presets import PACKAGE, load_preset
from gen2embed.encoding.batch import ChunkLimit
from gen2embed.model.resolution import Resolution
from gen2embed.model.vision import FeatureCache
from gen2embed.training.datamodule import Collate
from gen2embed.training.losses import InfoNCE
from gen2embed.training.module import ContrastiveModule
from gen2embed.training.shortcuts import Shortcuts, predict_step, resolve, sample_chunks
from gen2embed.training.sync import OneRank
from gen2embed.types import Pair

CHUNK = 4  # items, as in the paper's settings
LIBC = ctypes.CDLL(None)
AUTOCAST = partial(torch.autocast, "cpu", dtype=torch.bfloat16, cache_enabled=False)  # bf16-mixed, as Lightning has it


def resident(name: str) -> float:
    """MiB of this process: VmRSS is what it holds, VmHWM the most since the last `forget_peak`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) / 2**10


def forget_peak() -> float:
    """Return what is held now, in MiB, after what was freed was given back."""
    gc.collect()
    LIBC.malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # as proc(5) has it
    return resident("VmRSS")


def load(size: str) -> Embedder:
    """Return an embedder of a published width with the paper's adapter."""
    mid_low = Resolution("mid_low", 256 * 28 * 28, 1280 * 28 * 28)
    tiny = Embedder.from_pretrained(PACKAGE / "tiny" / "checkpoint", prompt="system", resolution=mid_low, device="cpu")
    config = qwen2_vl(PUBLISHED[size], tiny.backbone.tokenizer, layers=1, depth=1)
    full = transformers.Qwen2VLForConditionalGeneration._from_config(config, dtype=torch.bfloat16)
    backbone = replace(tiny.backbone, full=full.requires_grad_(False), model=full.base_model)
    return replace(tiny, backbone=load_preset("adapter", "paper").attach(backbone), feature_cache=FeatureCache(0))


def draw_pairs() -> list[Pair]:
    """Pairs that make one chunk, all with pictures."""
    random = np.random.default_rng(0)
    pictures = [Image.fromarray(random.integers(256, size=(448, 448, 3), dtype=np.uint8)) for _ in range(CHUNK)]
    items = [Item.create(f"picture {number}", picture) for number, picture in enumerate(pictures)]
    return [Pair(items[at], items[at + 1], "drawn", at) for at in range(0, CHUNK, 2)]


def main(size: str) -> None:
    LIBC.mallopt(-3, 2**16)  # M_MMAP_THRESHOLD: what is freed goes back at once
    embedder, pairs = load(size), draw_pairs()
    shortcuts, _ = resolve(Shortcuts(retain_graphs=0), embedder, lockstep=False)
    module = ContrastiveModule(embedder, InfoNCE(), OneRank(), 0, None, None, shortcuts=shortcuts)  # type: ignore[arg-type]
    module.manual_backward = Tensor.backward  # type: ignore[assignment]
    collate = Collate(partial(embedder.prepare, limit=ChunkLimit(4096, CHUNK), share=shortcuts.deduplicate))
    optimizer = torch.optim.AdamW(module.trained, lr=1e-4, fused=True)
    types = {str(parameter.dtype) for parameter in module.trained}

    def step() -> float:
        batch = collate(pairs)
        module.train()
        before = forget_peak()
        with AUTOCAST():
            module.accumulate(batch)
            module.sync.step(optimizer, module.trained, 1.0)
        return resident("VmHWM") - before

    before = forget_peak()
    sampled = sample_chunks(embedder, collate, pairs, shortcuts, AUTOCAST)
    measuring = resident("VmHWM") - before
    assert sampled.chunks == 1
    needed = predict_step(embedder, sampled, len(pairs))
    predicted = (needed.total - needed.weights - needed.optimizer) / 2**20  # which comes to be after the first step
    held = step()
    types |= {str(moment.dtype) for state in optimizer.state.values() for moment in state.values()}
    with mock.patch("gen2embed.training.module.cached_norms", lambda _: nullcontext()):
        plain = step()
    found = {"predicted": predicted, "held": held, "measuring": measuring, "plain": plain}
    print(json.dumps({**found, "tokens": sampled.tokens, "types": sorted(types)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
