"""One training step, and its oracle: the plain gradient of the whole batch, in one process and one graph."""

from dataclasses import replace

import torch
from conftest import TINY
from torch import Tensor

from gen2embed import Embedder
from gen2embed.data.datamodules import Collate, several_positives
from gen2embed.lit import ContrastiveModule, describe
from gen2embed.losses import InfoNCE
from gen2embed.sync import OneRank

TARGETS = ("q_proj", "v_proj", "down_proj")


def load(path=TINY, **options):
    return Embedder.from_pretrained(path, **{"resolution": "original", "device": "cpu", **options})


def attached(adapter, dtype=torch.float64, path=TINY):
    """A fresh embedder with an adapter whose weights are all away from zero, in training mode."""
    embedder = load(path)
    torch.manual_seed(0)
    embedder = replace(embedder, backbone=adapter.attach(embedder.backbone))
    embedder.backbone.full.to(dtype).train()
    for name, parameter in embedder.backbone.full.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    return embedder


def make_module(embedder, sync=None, **loss):
    """A module that runs a step by itself, without a trainer."""
    dtype = embedder.backbone.dtype
    module = ContrastiveModule(
        embedder, InfoNCE(**{"temperature": 0.05, **loss}).to(dtype), sync or OneRank(), 7, None, None
    )
    module.manual_backward = Tensor.backward
    return module.train()


def gradients(module):
    return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}


def cached(module, pairs, chunk=3, known=None):
    """What a rank has after it accumulated its share: loss and metrics, and gradients by name."""
    collate = Collate(module.embedder.build, chunk, chunk, several_positives(pairs) if known is None else known)
    torch.manual_seed(1)
    metrics = module.accumulate(collate(pairs))
    return {**metrics, "gradients": gradients(module)}


def whole(module, pairs, chunk=None):
    """The oracle: the loss of all pairs, by embedding them, and one plain backward pass.

    Items are embedded one by one; with dropout in the same chunks as `cached`, whose masks then are the same.
    """
    embedder, negatives = module.embedder, [item for pair in pairs for item in pair.negatives]
    candidates = [*(pair.positive for pair in pairs), *negatives]
    torch.manual_seed(1)
    if chunk is None:
        sides = [torch.cat([embedder.embed([item], role) for item in items])
                 for items, role in (([pair.query for pair in pairs], "query"), (candidates, "candidate"))]  # fmt: skip
    else:
        batch = Collate(embedder.build, chunk, chunk)(pairs)
        embedded = torch.cat([embedder.embed_inputs(inputs) for inputs in batch.chunks])[batch.order]
        sides = embedded.split([len(pairs), len(candidates)])
    identical = torch.tensor([[a.key == b.positive.key for a in candidates] for b in pairs])
    known = torch.tensor([[any(other.query.key == b.query.key and other.positive.key == a.key for other in pairs)
                           for a in candidates] for b in pairs])  # fmt: skip
    loss = module.loss(*sides, identical, known)
    loss.backward()
    return {"loss": loss.detach(), **describe(*sides, identical), "gradients": gradients(module)}


def error(found, expected):
    """The largest difference of gradients, in units of the largest gradient."""
    found, expected = found["gradients"], expected["gradients"]
    assert set(expected) <= set(found)
    scale = max(gradient.abs().max() for gradient in expected.values())
    assert scale > 1e-4
    assert all(not found[name].any() for name in set(found) - set(expected))
    return float(max((found[name] - expected[name]).abs().max() for name in expected) / scale)
