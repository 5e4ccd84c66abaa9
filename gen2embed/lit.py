"""The LightningModule: one manually optimised, gradient-cached, contrastive step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from lightning import LightningModule
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from gen2embed.data.datamodules import TrainingBatch
from gen2embed.encoder.embedder import Embedder
from gen2embed.gradcache import backward_cached
from gen2embed.losses import InfoNCE
from gen2embed.sync import Sync
from gen2embed.types import UserError


class ContrastiveModule(LightningModule):
    """Trains what of the embedder's backbone requires a gradient.

    optimizer: takes the parameters. scheduler: takes the optimizer and `num_training_steps`; steps once a batch.
    gradient_clip: largest norm of the gradient; None does not clip.
    sync: how the ranks train together; loss and accuracy are those of the global batch, the same on every rank.
    seed: of the ranks' random streams.
    """

    def __init__(
        self,
        embedder: Embedder,
        loss: InfoNCE,
        sync: Sync,
        seed: int,
        optimizer: Callable[..., Optimizer],
        scheduler: Callable[..., LRScheduler],
        gradient_clip: float | None = 1.0,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model = embedder.backbone.full
        self.trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.embedder, self.loss, self.gradient_clip = embedder, loss, gradient_clip
        self.sync, self.seed = sync, seed
        self._make_optimizer, self._make_scheduler = optimizer, scheduler

    def on_train_start(self) -> None:
        self.sync.seed(self.seed)
        self.train()  # Lightning leaves the mode as it is, and models are loaded for inference

    def training_step(self, batch: TrainingBatch, _: int) -> None:
        optimizer, scheduler = self.optimizers(), self.lr_schedulers()
        value, accuracy = self.accumulate(batch)
        if not torch.isfinite(value):
            rows = ", ".join(self.sync.gather_texts(batch.rows))
            raise UserError(f"the loss is {value.item()} at step {self.global_step}; the rows of its batch are {rows}")
        self.clip_gradients(optimizer, self.gradient_clip, "norm")  # type: ignore[arg-type]
        optimizer.step()  # type: ignore[union-attr]
        optimizer.zero_grad()  # type: ignore[union-attr]
        scheduler.step()  # type: ignore[union-attr]
        rate = scheduler.get_last_lr()[0]  # type: ignore[union-attr]
        metrics = {"loss": value, "accuracy": accuracy, "lr": rate, "step": float(self.global_step)}
        self.log_dict(metrics, prog_bar=True, batch_size=len(batch.rows))

    def accumulate(self, batch: TrainingBatch) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Accumulate the gradient of the global batch, of which `batch` is this rank's share.

        Returns its loss, and its in-batch accuracy.
        """
        numbers, accuracy = self.sync.gather(batch.positives), torch.zeros(())
        identical = numbers[:, None] == numbers

        def loss(own: Float[Tensor, "2n d"]) -> Float[Tensor, ""]:
            queries, candidates = (self.sync.gather(side) for side in own[batch.order].chunk(2))
            accuracy.copy_(in_batch_accuracy(queries, candidates, identical))
            return self.loss(queries, candidates, identical)

        with self.sync.whole_gradient(self.trained):
            value = backward_cached(batch.chunks, self.embedder.embed_inputs, loss, self.manual_backward)
        return value, accuracy

    def configure_optimizers(self) -> Any:
        optimizer = self._make_optimizer(self.trained)
        scheduler = self._make_scheduler(optimizer, num_training_steps=self.trainer.max_steps)
        return {"optimizer": optimizer, "lr_scheduler": scheduler}


def in_batch_accuracy(
    queries: Float[Tensor, "n d"], candidates: Float[Tensor, "n d"], identical: Tensor
) -> Float[Tensor, ""]:
    """Share of queries whose most similar candidate is their positive, or the same item."""
    nearest = (queries @ candidates.T).argmax(dim=1)
    return identical[torch.arange(len(queries), device=queries.device), nearest].float().mean()
