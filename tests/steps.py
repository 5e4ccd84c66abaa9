"""One training step, and its oracle: the plain gradient of the whole batch, in one process and one graph."""

import itertools
from dataclasses import replace
from functools import partial

import torch
from conftest import TINY
from torch import Tensor

from gen2embed import Embedder, Item
from gen2embed.data.batches import BatchPlan, Share
from gen2embed.data.datamodules import Collate, several_positives
from gen2embed.encoder.adapter import Lora
from gen2embed.lit import ContrastiveModule, describe
from gen2embed.losses import InfoNCE
from gen2embed.sync import OneRank

TARGETS = ("q_proj", "v_proj", "down_proj")
LORA = Lora(TARGETS, r=4, dropout=0.0)
LOSSES = {
    "plain": {"mask_identical": False},
    "identical": {},
    "known": {"mask_known": True},
    "margin": {"mask_margin": 0.05},
    "dims": {"dims": [16, 64, 128]},
    "temperature": {"learn_temperature": True},
    "all": {"mask_known": True, "mask_margin": 0.05, "dims": [32, 128], "learn_temperature": True},
}


def varied_pairs(world):
    """Texts and pictures of two sizes, equal positives, a query with two positives, and rows with negatives."""
    rows = replace(world, subsets=("shape", "t2i", "change")).pairs()
    some = [rows[index] for index in (0, 3, 24, 25, 26, 50, 51)]
    some.append(replace(some[2], positive=some[3].positive, row=99))
    some[0] = replace(some[0], negatives=(Item.of("a green ring"), some[4].positive))
    some[5] = replace(some[5], negatives=(some[6].query,))
    return some


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


def exact_norm(norm, hidden):
    """RMSNorm; transformers' own rounds to float32."""
    return norm.weight * hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + norm.variance_epsilon)


def trained(pairs, dtype, ranks=1, sync=None, rank=0, steps=20):
    """What `steps` of AdamW on the batches of a plan leave, as one long vector.

    In float64, items are embedded one by one: Qwen2-VL rotates its vision tower in float32, whatever its weights are.
    """
    module = make_module(attached(LORA, dtype), sync, learn_temperature=True)
    chunk = 3
    if dtype == torch.float64:
        chunk = 1
        for norm in (its for its in module.modules() if type(its).__name__ == "Qwen2VLRMSNorm"):
            norm.forward = partial(exact_norm, norm)
    plan = BatchPlan([list(range(row, row + 4)) for row in range(0, len(pairs), 4)], len(pairs), 8, 3, ranks)
    collate = Collate(module.embedder.build, chunk, chunk, several_positives(pairs))
    optimizer = torch.optim.AdamW(module.trained, lr=1e-3, weight_decay=0.0)
    before = torch.cat([parameter.detach().flatten() for parameter in module.trained])
    for rows in itertools.islice(Share(plan, rank), steps):
        module.accumulate(collate([pairs[row] for row in rows]))
        module.sync.step(optimizer, module.trained, 1.0)
    after = torch.cat([parameter.detach().flatten() for parameter in module.trained])
    assert (after - before).abs().max() > 0.005
    return after
