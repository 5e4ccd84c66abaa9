"""What happens beside training: adapters are left on the way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer

from gen2embed.encoder.adapter import save, saved_parameters
from gen2embed.files import replace_folder
from gen2embed.lit import ContrastiveModule
from gen2embed.types import UserError


class SaveSteps(Callback):
    """Leaves the adapter, ready to load, in `<folder>/<step>` every n steps of the optimiser; None leaves none."""

    def __init__(self, folder: Path, every_n_steps: int | None = None) -> None:
        if every_n_steps is not None and every_n_steps < 1:
            raise UserError(f"callbacks.steps.every_n_steps is at least 1, or null for none; got {every_n_steps}")
        self.folder, self.every_n_steps = Path(folder), every_n_steps

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
        if not self.every_n_steps or trainer.global_step % self.every_n_steps:
            return
        assert isinstance(module, ContrastiveModule)
        embedder = module.embedder
        prompt, resolution = embedder.build.prompt, embedder.build.resolution
        target = self.folder / str(trainer.global_step)
        with module.sync.whole(saved_parameters(embedder.backbone)):
            if trainer.is_global_zero:
                replace_folder(target, lambda folder: save(embedder.backbone, prompt, resolution, folder))
