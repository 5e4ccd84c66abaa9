"""One training step, and its oracle: the plain gradient of the whole batch, in one process and one graph."""

import itertools
from dataclasses import replace
from functools import partial

import torch
from conftest import TINY
from torch import Tensor
from transformers.models.qwen2_vl import modeling_qwen2_vl

from gen2embed import Embedder, Item
from gen2embed.encoding.batch import ChunkLimit
from gen2embed.model.adapter import Lora, save
from gen2embed.training.batches import ClusterBatchSampler, RankBatchSampler
from gen2embed.training.datamodule import Collate, several_positives
from gen2embed.training.losses import ContrastiveTargets, InfoNCE, batch_metrics
from gen2embed.training.module import ContrastiveModule
from gen2embed.training.shortcuts import NO_SHORTCUTS, Shortcuts
from gen2embed.training.sync import OneRank

TARGETS = ("q_proj", "v_proj", "down_proj")
LORA = Lora(TARGETS, r=4, dropout=0.0)
EVERY = Shortcuts(retain_graphs=2)
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
    some[0] = replace(some[0], negatives=(Item.create("a green ring"), some[4].positive))
    some[5] = replace(some[5], negatives=(some[6].query,))
    return some


def load(path=TINY, **options):
    return Embedder.from_pretrained(path, **{"resolution": "original", "device": "cpu", **options})


def in_double(model):
    """Make a Qwen2-VL compute in float64 all over: transformers rounds to float32 on its way."""

    def norm(self, hidden):
        return self.weight * hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)

    def rotate(q, k, cos, sin):
        cos, sin = cos.unsqueeze(-2).to(q), sin.unsqueeze(-2).to(q)
        return tuple(side * cos + modeling_qwen2_vl.rotate_half(side) * sin for side in (q, k))

    for module in model.modules():
        if type(module) is modeling_qwen2_vl.Qwen2VLRMSNorm:
            module.forward = partial(norm, module)
    modeling_qwen2_vl.apply_rotary_pos_emb_vision = rotate


def attached(adapter, dtype=torch.float64, path=TINY):
    """A fresh embedder with an adapter whose weights are all away from zero, in training mode."""
    embedder = load(path)
    torch.manual_seed(0)
    embedder = replace(embedder, backbone=adapter.attach(embedder.backbone))
    embedder.backbone.full.to(dtype).train()
    if dtype == torch.float64:
        in_double(embedder.backbone.full)
    for name, parameter in embedder.backbone.full.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    return embedder


def make_module(embedder, sync=None, shortcuts=NO_SHORTCUTS, loss=None, **options):
    """A module that runs a step by itself, without a trainer; `options` are of InfoNCE, without a loss."""
    loss = (loss or InfoNCE(**{"temperature": 0.05, **options})).to(embedder.backbone.dtype)
    module = ContrastiveModule(embedder, loss, sync or OneRank(), 7, None, None, shortcuts=shortcuts)
    module.manual_backward = Tensor.backward
    return module.train()


def gradients(module):
    return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}


def collating(embedder, chunk, known=None, share=False):
    """Chunks of at most so many items."""
    return Collate(partial(embedder.prepare, limit=ChunkLimit(10_000, chunk), share=share), known or {})


def cached(module, pairs, chunk=3, known=None):
    """What a rank has after it accumulated its share: loss and metrics, and gradients by name."""
    known = several_positives(pairs) if known is None else known
    collate = collating(module.embedder, chunk, known, module.shortcuts.deduplicate)
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
        batch = collating(embedder, chunk)(pairs)
        embedded = torch.cat([embedder.embed_chunk(its, batch.pictures) for its in batch.chunks])[batch.order]
        sides = embedded.split([len(pairs), len(candidates)])
    numbers = {key: number for number, key in enumerate({item.key for item in candidates})}
    paired = [[numbers[o.positive.key] for o in pairs if o.query.key == pair.query.key] for pair in pairs]
    known = torch.tensor([(its * len(pairs))[: len(pairs)] for its in paired])
    answers = ContrastiveTargets(torch.tensor([numbers[item.key] for item in candidates]), known)
    loss = module.loss(*sides, answers)
    loss.backward()
    return {"loss": loss.detach(), **batch_metrics(*sides, answers, module.loss), "gradients": gradients(module)}


def error(found, expected):
    """The largest difference of gradients, in units of the largest gradient."""
    found, expected = found["gradients"], expected["gradients"]
    assert set(expected) <= set(found)
    scale = max(gradient.abs().max() for gradient in expected.values())
    assert scale > 1e-4
    assert all(not found[name].any() for name in set(found) - set(expected))
    return float(max((found[name] - expected[name]).abs().max() for name in expected) / scale)


def trained(pairs, dtype, ranks=1, sync=None, rank=0, steps=10):
    """What `steps` of AdamW on the batches of a plan leave, as one long vector."""
    module = make_module(attached(LORA, dtype), sync, learn_temperature=True)
    plan = ClusterBatchSampler([list(range(row, row + 4)) for row in range(0, len(pairs), 4)], len(pairs), 8, 3, ranks)
    collate = collating(module.embedder, 3, several_positives(pairs))
    optimizer = torch.optim.AdamW(module.trained, lr=1e-3, weight_decay=0.0)
    before = torch.cat([parameter.detach().flatten() for parameter in module.trained])
    for rows in itertools.islice(RankBatchSampler(plan, rank), steps):
        module.accumulate(collate([pairs[row] for row in rows]))
        module.sync.step(optimizer, module.trained, 1.0)
    after = torch.cat([parameter.detach().flatten() for parameter in module.trained])
    assert (after - before).abs().max() > 0.005
    return after


def count(monkeypatch, cls, name):
    """How often a method is called."""
    calls, plain = [], getattr(cls, name)

    def counted(self, *args, **kwargs):
        calls.append(self)
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(cls, name, counted)
    return calls


def trained_adapter(folder, adapter, path=TINY):
    """A saved adapter whose weights are all away from zero."""
    embedder = Embedder.from_pretrained(path, resolution="original", device="cpu")
    torch.manual_seed(0)
    backbone = adapter.attach(embedder.backbone)
    for name, parameter in backbone.full.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    save(replace(embedder, backbone=backbone), folder / "adapter")
    return folder / "adapter"
