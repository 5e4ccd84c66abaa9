"""DeepSpeed on a CPU, for tests: ranks that train with every ZeRO stage, and leave what they found in files."""

import json
import os
import runpy
import shutil
import sys
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from conftest import REPOSITORY, SIZE
from hydra.core.global_hydra import GlobalHydra
from lightning import Callback, Trainer
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.strategies import DeepSpeedStrategy
from steps import TARGETS, attached, collating
from torch.utils.data import DataLoader, IterableDataset

from gen2embed import Item
from gen2embed.model.adapter import Full, Lora
from gen2embed.training.checkpoint import saved_checkpoints, step_of
from gen2embed.training.losses import InfoNCE
from gen2embed.training.module import ContrastiveModule
from gen2embed.training.shortcuts import Shortcuts, resolve
from gen2embed.training.zero import Zero
from gen2embed.types import Pair
from gen2embed.world.data import World

STAGES, MISTAKEN = (1, 2, 3), 3  # the stage in which mistakes are made, too
SEED = 7
DORA = Lora((*TARGETS, "qkv"), r=4, dropout=0.0, dora=True, vision=True)  # qkv: idle without pictures
DROPOUT = Lora((*TARGETS, "qkv"), r=4, dropout=0.3, vision=True)
FULL = Full(vision=True)
STEPS, KEPT = 2, 1  # of the run that is continued, and after how many


class OnCpu(Zero):
    """The strategy without what asks for GPUs."""

    runs_on = CPUAccelerator
    root_device = torch.device("cpu", 0)  # DeepSpeed wants an index

    def setup_environment(self):
        super(DeepSpeedStrategy, self).setup_environment()

    def setup_distributed(self):
        import deepspeed.ops

        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # a minute to compile; gloo does
        self.set_world_ranks()
        self._init_deepspeed_distributed()


def cases(world):
    """The pairs of rank 0 and of rank 1."""
    pairs = replace(world, subsets=("shape", "t2i", "change")).pairs()
    texts = [
        Pair(Item.create(f"a {word} star"), Item.create(word), "text", row)
        for row, word in enumerate(("red", "blue", "big"))
    ]
    return {
        "texts here, pictures there": (texts[:2], [pairs[index] for index in (0, 24, 25, 50, 51, 52)]),
        "identical positives": (pairs[:4], pairs[4:8]),
        "no picture anywhere": (texts[:2], texts[2:]),
    }


def learning():
    return InfoNCE(0.05, learn_temperature=True)


def fresh(adapter, stage):
    """An embedder in float32 with weights that float64 holds, too, and what makes its batches."""
    embedder = attached(adapter)
    embedder.backbone.full.float()
    embedder = replace(embedder, packing=stage < 3)
    taken, _ = resolve(Shortcuts(), embedder, lockstep=stage == 3)
    return embedder, collating(embedder, 3, share=taken.deduplicate)


class Stream(IterableDataset):
    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)


class Found(Callback):
    """Gradients as DeepSpeed steps with them, and aligned batches, of every step."""

    def __init__(self, module, wrong=()):
        self.module, self.wrong, self.steps = module, dict(wrong), []
        self.sync = module.sync
        self.right = {name: getattr(self.sync, name) for name in ("step", "pad_chunks", "factor", "reduce_gradients")}
        self.sync.step, self.sync.pad_chunks = self.step, self.pad_chunks

    def on_train_batch_start(self, trainer, module, batch, index):
        for name in ("factor", "reduce_gradients"):
            setattr(self.sync, name, self.wrong.get(index, {}).get(name, self.right[name]))

    def pad_chunks(self, batch, build):
        self.batch = self.right["pad_chunks"](batch, build)
        self.unaligned = [chunk.pictured for chunk in batch.chunks]
        return self.batch

    def step(self, *args):
        from deepspeed.utils import safe_get_full_grad

        gradients = {name: safe_get_full_grad(p) for name, p in self.module.named_parameters() if p.requires_grad}
        norm = self.right["step"](*args)
        found = {"gradients": {name: g.clone() for name, g in gradients.items()}, "norm": float(norm)}
        self.steps.append({**found, "batch": self.batch, "unaligned": self.unaligned})
        return norm

    def on_train_batch_end(self, trainer, *_):
        self.steps[-1]["loss"] = trainer.callback_metrics["loss"].item()


def fit(stage, embedder, loss, batches, optimizer, *, scheduler=None, clip=None, wrong=(), precision="32-true", **keep):
    """Train on the rank's batches; returns what every step found, and all parameters before and after."""
    trainer = Trainer(
        accelerator="cpu",
        devices=2,
        strategy=OnCpu(stage),
        precision=precision,
        max_steps=keep.pop("steps", len(batches)),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=keep.pop("callbacks", None),
    )
    constant = lambda made, num_training_steps: torch.optim.lr_scheduler.LambdaLR(made, scheduler or (lambda _: 1.0))  # noqa: E731
    sync = trainer.strategy.sync()
    taken, _ = resolve(Shortcuts(retain_graphs=2), embedder, lockstep=sync.lockstep)
    module = ContrastiveModule(embedder, loss, sync, SEED, optimizer, constant, clip, taken)
    found = Found(module, wrong)
    trainer.callbacks.append(found)
    before = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    trainer.fit(module, DataLoader(Stream(batches), batch_size=None), **keep)
    after = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    return {"steps": found.steps, "before": before, "after": after}


def exact(stage, world, rank):
    """All cases, and in stage 3 deliberate mistakes, at the same weights; the last step alone moves them."""
    embedder, collate = fresh(DORA, stage)
    batches = {name: collate(parts[rank]) for name, parts in cases(world).items()}

    @contextmanager
    def nothing(_):
        yield

    mixed = batches["texts here, pictures there"]
    wrong = {2: {"factor": 1.0}, 3: {"reduce_gradients": nothing}} if stage == MISTAKEN else {}
    sequence = [batches["identical positives"], mixed, *[mixed] * len(wrong), batches["no picture anywhere"]]
    last = lambda step: float(step == len(sequence) - 1)  # noqa: E731
    return fit(
        stage, embedder, learning(), sequence, partial(torch.optim.SGD, lr=1.0), scheduler=last, clip=1.0, wrong=wrong
    )


def full(stage, world, rank):
    embedder, collate = fresh(FULL, stage)
    batch = collate(cases(world)["texts here, pictures there"][rank])
    return fit(stage, embedder, learning(), [batch], partial(torch.optim.SGD, lr=0.0))


class Keep(Callback):
    def __init__(self, path):
        self.path = path

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == KEPT:
            trainer.save_checkpoint(self.path)
            trainer.save_checkpoint(self.path)  # in place of the first


def continued(stage, world, rank):
    """With dropout and momentum: a run, and one that begins where a checkpoint of it was left."""
    optimizer = partial(torch.optim.AdamW, lr=1e-3, weight_decay=0.01)
    path = Path("kept").resolve() / f"stage{stage}.ckpt"
    runs = []
    for options in ({"callbacks": [Keep(path)]}, {"ckpt_path": path}):
        embedder, collate = fresh(DROPOUT, stage)
        parts = cases(world)
        order = ("texts here, pictures there", "no picture anywhere", "identical positives")
        batches = [collate(parts[name][rank]) for name in order]
        left = batches[KEPT:] if "ckpt_path" in options else batches
        runs.append(fit(stage, embedder, learning(), left, optimizer, clip=1.0, steps=STEPS, **options))
    return runs


def recomputed(stage, world, rank):
    """The first step of `continued`, with its layers computed again in the backward pass."""
    embedder, collate = fresh(DROPOUT, stage)
    embedder.backbone.full.activation_checkpointing_enable({"use_reentrant": False})
    layer = embedder.backbone.model.language_model.layers[0].mlp
    calls = []
    layer.register_forward_pre_hook(lambda *_: calls.append(1))
    batch = collate(cases(world)["texts here, pictures there"][rank])
    found = fit(stage, embedder, learning(), [batch], partial(torch.optim.SGD, lr=0.0))
    return {**found, "calls": len(calls)}


def precise(stage, world, rank):
    """One step in each precision; `base` is float32 on a frozen bfloat16 base, as on a GPU."""
    found = {}
    for precision in ("32-true", "bf16-mixed", "bf16-true", "base"):
        embedder, collate = fresh(DORA, stage)
        if precision == "base":
            for parameter in embedder.backbone.full.parameters():
                if not parameter.requires_grad:
                    parameter.data = parameter.data.bfloat16()
        batch = collate(cases(world)["texts here, pictures there"][rank])
        chosen = "32-true" if precision == "base" else precision
        optimizer = partial(torch.optim.SGD, lr=1.0)
        found[precision] = fit(stage, embedder, learning(), [batch], optimizer, precision=chosen)
    return found


def train(*args):
    """`python train.py ARGS` on this rank."""
    for name in ("runs_on", "root_device", "setup_environment", "setup_distributed"):
        setattr(Zero, name, OnCpu.__dict__[name])
    sys.argv = ["train.py", *args]
    GlobalHydra.instance().clear()
    try:
        runpy.run_path(str(REPOSITORY / "train.py"), run_name="__main__")
    except SystemExit as stop:
        raise RuntimeError(f"train.py ended: {stop.code}") from stop


def interrupt(rank, folder, into, step):
    """Leave a run's folder as it was after a step."""
    if rank == 0:
        shutil.copytree(folder, into)
        shutil.rmtree(Path(into) / "adapter")
        for path in saved_checkpoints(Path(into) / "checkpoints"):
            if step_of(path) > step:
                shutil.rmtree(path)
    torch.distributed.barrier()


WORK = {do.__name__: do for do in (exact, full, continued, recomputed, precise)}


def rank_main(where, work, *runs):
    """Leave what this rank finds in a file. where: the world's folder. work: stages, by what to do in them.

    runs: arguments of train.py, or of `interrupt` by name.
    """
    os.environ["DS_ACCELERATOR"] = "cpu"
    world, rank = World(Path(where), **SIZE), int(os.environ["RANK"])
    found = {(stage, name): WORK[name](stage, world, rank)
             for name, stages in json.loads(work).items() for stage in stages}  # fmt: skip
    torch.save(found, f"{rank}.pt")
    for run in map(json.loads, runs):
        if isinstance(run, dict):
            interrupt(rank, **run)
        else:
            train(*run)
