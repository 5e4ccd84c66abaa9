"""DeepSpeed's ZeRO (Rajbhandari et al., 2019, arXiv 1910.02054), which divides the state of training among the ranks.

Stage 1 divides the optimiser's state, stage 2 also the reduced gradients, and stage 3 also the parameters. The gradient
is that of `sync.Replicas`. Without one of these four rules it is silently wrong, or the ranks hang:

    1. DeepSpeed reduces to a mean over ranks, so a rank multiplies what it back-propagates by their number.
    2. Gradients are reduced once, after a step's last chunk. DeepSpeed by itself reduces after every chunk, and adds
       some gradients up twice.
    3. In stage 3 all ranks gather the weights of a module whenever one runs it. So all run the same number of chunks of
       texts, and then of pictures; a rank with fewer runs fillers, whose rows no loss sees.
    4. A parameter that no chunk reached gets a gradient of zero. In stage 3 it would keep that of the step before.

An optimiser with momentum moves a parameter whose gradient is zero, where `Replicas` does not move one that no rank
reached, such as the vision tower in a batch without pictures.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from typing import Any, ClassVar, Literal

import torch
import torch.distributed as dist
from lightning import Trainer
from lightning.pytorch.accelerators import Accelerator, CUDAAccelerator
from lightning.pytorch.plugins import DeepSpeedPrecision
from lightning.pytorch.strategies import DeepSpeedStrategy
from PIL import Image
from torch import Tensor
from torch.nn import Module, Parameter

from gen2embed.encoding.batch import Chunk, Prepare
from gen2embed.training.datamodule import TrainingBatch
from gen2embed.training.strategies import RanksStrategy
from gen2embed.training.sync import Replicas, Sync
from gen2embed.types import Item
from gen2embed.utils.compat import forget_trace
from gen2embed.utils.errors import UserError

PERSISTENT = 100_000  # elements of the largest parameter that stage 3 does not divide, by DeepSpeed's default
PRECISIONS = ("32-true", "bf16-mixed", "bf16-true")


class AsLoaded(DeepSpeedPrecision):
    """Keeps the types in which weights were loaded: frozen ones may be bfloat16 under an adapter in float32."""

    def convert_module(self, module: Module) -> Module:
        return module


class Zero(RanksStrategy, DeepSpeedStrategy):
    """Lightning's DeepSpeed, for the step of `ContrastiveModule`: one gradient of one global batch.

    bf16-mixed is autocast over float32 weights, as without DeepSpeed. In bf16-true, weights and accumulated gradients
    are bfloat16, and the optimiser steps on float32 copies. float16 would skip steps, and is refused.

    Args:
        stage: The stage of ZeRO.
        timeout_seconds: How long a rank waits for another one.
    """

    runs_on: ClassVar[type[Accelerator]] = CUDAAccelerator

    def __init__(self, stage: Literal[1, 2, 3], timeout_seconds: float = 1800) -> None:
        self.choice, self.stage = f"strategy=deepspeed_zero{stage}", stage
        if find_spec("deepspeed") is None:
            needed = "pip install 'gen2embed[deepspeed]'"
            raise UserError(f"{self.choice} needs deepspeed, which is not installed: {needed}")
        super().__init__(timeout_seconds, stage=stage, exclude_frozen_parameters=True, logging_batch_size_per_gpu=1)

    def sync(self) -> Sync:
        if not isinstance(self.accelerator, self.runs_on):
            raise UserError(
                f"{self.choice} cannot run on {type(self.accelerator).__name__}: DeepSpeed needs CUDA GPUs; choose "
                "strategy=ddp"
            )
        if self.precision_plugin.precision not in PRECISIONS:
            raise UserError(
                f"{self.choice} cannot train in {self.precision_plugin.precision}; set trainer.precision to one of "
                f"{', '.join(PRECISIONS)}"
            )
        return Sharded(self)

    def setup(self, trainer: Trainer) -> None:
        if self.precision_plugin.precision == "32-true":
            self.precision_plugin = AsLoaded("32-true")
        super().setup(trainer)

    def _format_config(self) -> None:  # private in Lightning 2.6.6, where DeepSpeed's configuration is completed
        config, module = self.config, self.lightning_module
        assert config is not None and module is not None
        config["gradient_clipping"] = module.gradient_clip or 0.0
        if self.precision_plugin.precision == "bf16-mixed":
            config["bf16"] = {"enabled": False}  # which is Lightning's choice, and rounds the weights
            config["torch_autocast"] = {"enabled": True, "dtype": "bfloat16", "lower_precision_safe_modules": []}
        super()._format_config()

    def on_train_end(self) -> None:
        """Give every rank the complete model again, without DeepSpeed's hooks."""
        if self.zero_stage_3:
            parameters: list[Any] = list(self.lightning_module.parameters())  # type: ignore[union-attr]
            parameters[0].all_gather(parameters)
            self.deepspeed_engine.destroy()

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        """Save a folder with a shard of each rank; all shards are complete when this returns."""
        super().save_checkpoint(checkpoint, filepath, storage_options)
        self.barrier()


class Sharded(Replicas):
    """How the ranks of `Zero` make one gradient."""

    def __init__(self, strategy: Zero) -> None:
        self.strategy, self.factor, self.lockstep = strategy, float(strategy.world_size), strategy.zero_stage_3

    @contextmanager
    def reduce_gradients(self, parameters: Iterable[Parameter]) -> Iterator[None]:
        trained, engine = list(parameters), self.strategy.deepspeed_engine
        if self.strategy.zero_stage_3:
            forget_trace(engine.optimizer.parameter_offload.get_param_coordinator())
        with engine.coalesce_grad_reduction():
            try:
                yield
            except BaseException:
                for parameter in trained:  # DeepSpeed would reduce them with ranks that may never come
                    parameter.grad = None
                raise
            idle = [parameter for parameter in trained if parameter.grad is None]
            with self.gather_parameters(idle):
                for parameter in idle:
                    parameter.grad = torch.zeros_like(parameter)

    def pad_chunks(self, batch: TrainingBatch, prepare: Prepare) -> TrainingBatch:
        """Return the batch with chunks of texts first, then of pictures, and fillers up to the most that a rank has."""
        kinds = [
            [index for index, chunk in enumerate(batch.chunks) if chunk.pictured == pictured]
            for pictured in (False, True)
        ]
        most = torch.tensor([len(indices) for indices in kinds], device=batch.order.device)
        dist.all_reduce(most, op=dist.ReduceOp.MAX)
        sizes = [chunk.rows for chunk in batch.chunks]
        numbered = torch.arange(sum(sizes)).split(sizes)
        chunks, rows, pictures = list[Chunk](), list[Tensor](), dict(batch.pictures)
        for indices, count, item in zip(kinds, most.tolist(), fillers(), strict=True):
            chunks += [batch.chunks[index] for index in indices]
            rows += [numbered[index] for index in indices]
            if missing := count - len(indices):
                filler = prepare([(item, "candidate")])
                chunks += filler.chunks * missing
                rows += [torch.tensor([-1])] * missing
                pictures |= filler.pictures
        # The rows' numbers before, -1 for fillers: sorted, fillers come first, and position k after them is where row k
        # is now. E.g. before = [2, -1, 0, 1] sorts to [1, 2, 3, 0], so that rows 0, 1, 2 are at 2, 3, 0.
        before = torch.cat(rows)
        order = before.argsort(stable=True)[(before < 0).sum() :].to(batch.order.device)[batch.order]
        return replace(batch, chunks=chunks, order=order, pictures=pictures)

    def step(self, optimizer: Any, parameters: Iterable[Parameter], largest: float | None) -> Tensor:
        optimizer.step()  # clips the norm, as configured, and removes the gradient
        return torch.as_tensor(self.strategy.deepspeed_engine.get_global_grad_norm())

    @contextmanager
    def gather_parameters(self, parameters: Iterable[Parameter]) -> Iterator[None]:
        from deepspeed.runtime.zero import GatheredParameters  # noqa: PLC0415  # where it is not installed, the others work

        divided = list(parameters)
        with GatheredParameters(divided, enabled=self.strategy.zero_stage_3 and bool(divided)):
            yield


def fillers() -> tuple[Item, Item]:
    """Return a text and an item with a picture, both cheap to embed."""
    return Item.create("text"), Item.create("", Image.new("RGB", (56, 56)))
