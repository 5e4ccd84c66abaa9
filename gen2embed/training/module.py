"""The LightningModule: one manually optimised, gradient-cached, contrastive step on any number of ranks.

    1. Embed every chunk of this rank's pairs (`gradcache`, step 1); a frozen vision tower sees each picture once.
    2. Gather the embeddings of all ranks, of which this rank's own carry a gradient (`sync`).
    3. Compute the loss of the global batch, and its gradient with respect to this rank's embeddings (`gradcache`,
       step 2).
    4. Embed every chunk again, and back-propagate its part of that gradient (`gradcache`, step 3).
    5. Add up the gradients of all ranks, once: the sum is the gradient of the global batch (`sync`).
    6. Clip its norm, step the optimiser, and step the schedule; a norm that is not finite ends the run.

Random numbers depend on seed, step and rank alone, so that an interrupted run repeats a step to the bit.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from lightning import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from gen2embed.encoding.batch import ChunkLimit
from gen2embed.encoding.truncation import NAMED as NAMED_CUT
from gen2embed.encoding.truncation import TruncationCount
from gen2embed.model.dora import cached_norms
from gen2embed.model.embedder import Embedder
from gen2embed.training.datamodule import TrainingBatch
from gen2embed.training.gradcache import backward_cached
from gen2embed.training.losses import ContrastiveLoss, ContrastiveTargets, batch_metrics
from gen2embed.training.shortcuts import NO_SHORTCUTS, Shortcuts
from gen2embed.training.sync import Sync
from gen2embed.utils.compat import set_rate_of_next_step
from gen2embed.utils.errors import UserError
from gen2embed.utils.workers import unwrap

REMEDY = "look at these rows, lower optim.optimizer.lr, or train in higher precision"
MOST_ROWS = 256  # in a message
PROGRESS_METRICS = ("loss", "accuracy")  # those beside the progress bar


class ContrastiveModule(LightningModule):
    """Trains the parameters of the embedder's backbone and of the loss that require a gradient.

    The metrics that it logs are those of the global batch, the same on every rank.

    Args:
        embedder: The model to train, with its adapter attached.
        loss: The loss of a global batch.
        sync: How the ranks train together.
        seed: Decides the random numbers of every rank, with the step.
        optimizer: Makes the optimiser from the trained parameters.
        scheduler: Makes the schedule from the optimiser and `num_training_steps`; it steps once a batch.
        gradient_clip: The largest norm of the gradient; None does not clip.
        shortcuts: Which repeated work to leave out (`shortcuts.resolve`).
    """

    def __init__(
        self,
        embedder: Embedder,
        loss: ContrastiveLoss,
        sync: Sync,
        seed: int,
        optimizer: Callable[..., Optimizer],
        scheduler: Callable[..., LRScheduler],
        gradient_clip: float | None = 1.0,
        shortcuts: Shortcuts = NO_SHORTCUTS,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.strict_loading = False  # a checkpoint has what is trained, not the base
        self.model, self.loss = embedder.backbone.full, loss
        self.trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        self.embedder, self.gradient_clip = embedder, gradient_clip
        self.sync, self.seed, self.shortcuts = sync, seed, shortcuts
        self.cut = TruncationCount()
        self._make_optimizer, self._make_scheduler = optimizer, scheduler

    def transfer_batch_to_device(
        self, batch: TrainingBatch | UserError, device: torch.device, dataloader_idx: int
    ) -> TrainingBatch:
        """Return the batch with all but its chunks on the device; each chunk moves there when it is embedded.

        Raises:
            UserError: If a loader's worker returned one in place of a batch.
        """
        batch = unwrap(batch)
        moved = {name: value.to(device) for name, value in vars(batch).items() if isinstance(value, Tensor)}
        return replace(batch, **moved)  # type: ignore[arg-type]

    def on_train_start(self) -> None:
        self.train()  # Lightning leaves the mode as it is, and models are loaded for inference
        scheduler = self.lr_schedulers()
        if isinstance(scheduler, LambdaLR):  # every schedule of transformers that takes a number of steps is one
            set_rate_of_next_step(scheduler)

    def training_step(self, batch: TrainingBatch, _: int) -> None:
        self.sync.seed(self.seed, self.global_step)
        optimizer, scheduler = self.optimizers(), self.lr_schedulers()
        self._count_cut(batch)
        metrics: dict[str, Any] = {**self.accumulate(batch)}  # steps 1 to 5 of the module's docstring
        norm = self.sync.step(optimizer, self.trained, self.gradient_clip)  # step 6
        if not torch.isfinite(norm):
            rows = self._names(batch.rows)
            raise UserError(f"the gradient's norm is {norm.item()} at step {self.global_step - 1}, of {rows}; {REMEDY}")
        scheduler.step()  # type: ignore[union-attr]
        metrics |= {"gradient_norm": norm, "lr": scheduler.get_last_lr()[0]}  # type: ignore[union-attr]
        metrics |= self.loss.metrics()
        for name, value in {**metrics, "step": float(self.global_step)}.items():
            self.log(name, value, prog_bar=name in PROGRESS_METRICS, batch_size=len(batch))

    def _count_cut(self, batch: TrainingBatch) -> None:
        """Count the inputs of all ranks that were cut at `max_length`, and warn of the first ones."""
        counts = torch.tensor([[len(batch.needed), 2 * len(batch) + len(batch.negatives)]], device=batch.order.device)
        count, total = self.sync.gather(counts).sum(dim=0).tolist()
        first = count and not self.cut.count
        sides = [f"{row}, {side}" for side in ("query", "positive") for row in batch.rows]
        sides += ["an explicit negative"] * len(batch.negatives)
        names = [f"{sides[at]} ({tokens} tokens)" for at, tokens in batch.needed.items()]
        names = self.sync.gather_texts(names) if first else []
        self.cut += TruncationCount(count, total, self.embedder.build.max_length, tuple(names[:NAMED_CUT]))
        if first and self.global_rank == 0:
            self.cut.warn("inputs of the first such step")

    def on_train_end(self) -> None:
        if self.global_rank == 0:
            self.cut.warn("inputs of training")

    def accumulate(self, batch: TrainingBatch) -> dict[str, Float[Tensor, ""]]:
        """Accumulate the gradient of the global batch: steps 1 to 5.

        Args:
            batch: This rank's part of the global batch.

        Returns:
            The loss of the global batch, and the metrics of `batch_metrics`.

        Raises:
            UserError: If the loss is not finite, with the rows that it comes from.
        """
        embedder, shortcuts = self.embedder, self.shortcuts
        batch = self.sync.pad_chunks(batch, partial(embedder.prepare, limit=ChunkLimit(embedder.budget)))
        metrics: dict[str, Tensor] = {}
        norms = cached_norms(self.model) if shortcuts.cache_dora_norms else nullcontext()
        with self.sync.reduce_gradients(self.trained), norms:
            features = None
            if shortcuts.cache_vision:
                features = embedder.vision_features(batch.pictures)
                batch.pictures.clear()  # Lightning holds the batch until the step ends, and would hold the pixels
            value = backward_cached(
                batch.chunks,
                lambda chunk: embedder.embed_chunk(chunk, batch.pictures, features),
                partial(self._global_loss, batch, metrics),
                self._backward,
                [parameter for parameter in self.loss.parameters() if parameter.requires_grad],
                self._backward_learned,
                shortcuts.retain_graphs or 0,
            )
        return {"loss": value, **metrics}

    def _global_loss(
        self, batch: TrainingBatch, metrics: dict[str, Tensor], vectors: Float[Tensor, "r d"]
    ) -> Float[Tensor, ""]:
        """Return the loss of the global batch, and put its metrics into `metrics`: steps 2 and 3.

        Args:
            batch: This rank's part.
            metrics: Gets the metrics, by name.
            vectors: The embeddings of this rank's chunks, in their order.
        """
        sides = vectors[batch.order].split([len(batch), len(batch), len(batch.negatives)])
        queries, positives, negatives = map(self.sync.gather, sides)
        candidates = torch.cat([positives, negatives])
        numbers = torch.cat([self.sync.gather(batch.positives), self.sync.gather(batch.negatives)])
        targets = ContrastiveTargets(numbers, self.sync.gather(batch.known))
        metrics |= batch_metrics(queries, candidates, targets, self.loss)
        value = self.loss(queries, candidates, targets)
        if not torch.isfinite(value):
            self._raise_not_finite(batch, vectors, value)
        return value

    def _backward(self, scalar: Float[Tensor, ""]) -> None:
        self.manual_backward(scalar * self.sync.factor)

    def _backward_learned(self, parameter: nn.Parameter, gradient: Tensor) -> None:
        """Accumulate a gradient of the loss's own parameter, which every rank has in full: their sum counts it once."""
        with self.sync.gather_parameters([parameter]):
            self._backward(self.sync.scale_for_sum((parameter * gradient).sum()))

    def _raise_not_finite(self, batch: TrainingBatch, vectors: Float[Tensor, "r d"], loss: Tensor) -> None:
        """Raise `UserError` with the rows of any rank whose embeddings are not finite; every rank calls this."""
        broken = ~torch.isfinite(vectors.detach()).all(dim=1)[batch.order[: 2 * len(batch)]].view(2, -1).all(dim=0)
        bad_rows = self._names([row for row, bad in zip(batch.rows, broken.tolist(), strict=True) if bad])
        all_finite = f"all embeddings are finite, of {self._names(batch.rows)}"
        cause = f"the embeddings of {bad_rows} are not finite" if bad_rows else all_finite
        raise UserError(f"the loss is {loss.item()} at step {self.global_step}: {cause}; {REMEDY}")

    def _names(self, rows: list[str]) -> str:
        """Return the rows of all ranks, for a message; every rank calls this."""
        rows = self.sync.gather_texts(rows)
        return ", ".join(rows[:MOST_ROWS]) + (f" and {len(rows) - MOST_ROWS} more" if len(rows) > MOST_ROWS else "")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep only trained weights: the base can be loaded from where it was."""
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {name: state[name] for name in self._trained_names()}
        checkpoint["inputs_cut"] = self.cut.describe()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Raise `UserError` unless the checkpoint has exactly the weights that are trained."""
        self.cut = TruncationCount.read(checkpoint.get("inputs_cut"))
        if "state_dict" not in checkpoint:  # the strategy has loaded it
            return
        saved, trained = set(checkpoint["state_dict"]), set(self._trained_names())
        if saved != trained:
            raise UserError(
                f"the checkpoint does not fit: {len(trained - saved)} trained weights are missing in it and "
                f"{len(saved - trained)} are left over, such as {min(saved ^ trained)}; choose another output_dir, or "
                "resume=never to start over"
            )

    def _trained_names(self) -> list[str]:
        return [name for name, parameter in self.named_parameters() if parameter.requires_grad]

    def configure_optimizers(self) -> Any:
        optimizer = self._make_optimizer(self.trained)
        scheduler = self._make_scheduler(optimizer, num_training_steps=self.trainer.max_steps)
        return {"optimizer": optimizer, "lr_scheduler": scheduler}
