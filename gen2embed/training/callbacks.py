"""Callbacks of training: save adapters on the way, log the speed, score a benchmark, and check what the ranks hold."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from lightning import Callback, LightningModule, Trainer

from gen2embed.data.benchmark import Benchmark
from gen2embed.encoding.engine import Engine
from gen2embed.evaluation.evaluate import evaluate
from gen2embed.model.adapter import save, saved_parameters
from gen2embed.outputs.paths import check_folder, replace_folder
from gen2embed.outputs.record import RUN
from gen2embed.training.module import ContrastiveModule
from gen2embed.utils.errors import UserError
from gen2embed.utils.fingerprints import differences
from gen2embed.utils.log import log
from gen2embed.utils.memory import peak_gib

RESAMPLES = 200  # for the interval of a validation, which only shows whether the scores are at chance


class SaveSteps(Callback):
    """Saves the adapter, ready to load, in `<folder>/<step>`.

    Args:
        folder: The folder of the adapters.
        every_n_steps: The number of steps of the optimiser between two adapters; None saves none.
    """

    def __init__(self, folder: Path, every_n_steps: int | None = None) -> None:
        if every_n_steps is not None and every_n_steps < 1:
            raise UserError(f"callbacks.steps.every_n_steps is at least 1, or null for none; got {every_n_steps}")
        self.folder, self.every_n_steps = Path(folder), every_n_steps

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Raise `UserError` if a folder that will be written is there and is not a run's."""
        if self.every_n_steps and trainer.is_global_zero:
            for step in range(self.every_n_steps, trainer.max_steps + 1, self.every_n_steps):
                check_folder(self.folder / str(step), by=RUN)

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
        if self.every_n_steps and trainer.global_step % self.every_n_steps == 0:
            write_adapter(trainer, module, self.folder / str(trainer.global_step))


class CheckRanksAgree(Callback):
    """Raises `UserError` on every rank, before the first step, if one has other inputs than rank 0.

    Args:
        inputs: The model, the rows and the clusters of this rank, in plain values.
    """

    def __init__(self, inputs: Mapping[str, Any]) -> None:
        self.inputs = inputs

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        assert isinstance(module, ContrastiveModule)
        ranks = [json.loads(text) for text in module.sync.gather_texts([json.dumps(self.inputs)])]
        for rank, inputs in enumerate(ranks):
            if differing := differences(ranks[0], inputs):
                raise UserError(
                    f"rank {rank} has other inputs than rank 0, and would hold other batches: "
                    f"{'; '.join(differing)} (there: rank 0, here: rank {rank}); all ranks need the same files"
                )


class CountWithoutNegatives(Callback):
    """Warns at the first step that has queries without a negative, and of their number at the end."""

    def __init__(self) -> None:
        self.steps = self.queries = 0

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
        if not (count := int(trainer.callback_metrics["without_negatives"])):
            return
        self.steps, self.queries = self.steps + 1, self.queries + count
        if self.steps == 1:
            log.warning(
                "step %d: the batch has no negative for %d queries, which train nothing: every candidate equals their "
                "positive, or the loss masks it; the metric without_negatives counts them",
                trainer.global_step,
                count,
            )

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        if self.steps:
            log.warning("%d queries in %d steps had no negative and trained nothing", self.queries, self.steps)


class Speed(Callback):
    """Logs pairs per second since the last time, and the peak of the memory."""

    def __init__(self) -> None:
        self._pairs, self._since = 0, 0.0

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._pairs, self._since = 0, time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, _: Any, batch: Any, *__: Any) -> None:
        self._pairs += len(batch) * trainer.world_size
        if trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            now = time.perf_counter()
            speed = {"pairs_per_second": self._pairs / (now - self._since), "memory_gib": peak_gib(module.device)}
            module.log_dict(speed, batch_size=len(batch))
            self._pairs, self._since = 0, now


class Validate(Callback):
    """Scores the embedder on a benchmark every n steps and at the last, and saves the adapter of the best step.

    The score is the mean over tasks; of equal scores the first is the best. Every rank scores all tasks, since the
    weights may be divided among the ranks.

    Args:
        benchmark: The benchmark to score.
        engine: Encodes its items.
        folder: The folder of the best adapter.
        every_n_steps: The number of steps of the optimiser between two scores.
        keep: Whether the run's adapter is that of the best step or of the last.
        patience: The number of scores in a row without a new best that ends the training; None never does.
    """

    def __init__(
        self,
        benchmark: Benchmark,
        engine: Engine,
        folder: Path,
        every_n_steps: int,
        keep: Literal["best", "last"],
        patience: int | None = None,
    ) -> None:
        if every_n_steps < 1:
            raise UserError(f"validation.every_n_steps is at least 1; got {every_n_steps}")
        if keep not in ("best", "last"):
            raise UserError(f"validation.keep is best or last; got {keep}")
        if patience is not None and patience < 1:
            raise UserError(f"validation.patience is at least 1, or null to train to the last step; got {patience}")
        # without a store, which knows an adapter by its saved weights
        self.benchmark, self.engine = benchmark, replace(engine, store=None, shown=False)
        self.folder, self.every_n_steps, self.keep, self.patience = Path(folder), every_n_steps, keep, patience
        self.best: dict[str, float] = {}
        self._since_best = 0
        self._warned: set[str] = set()

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._stop_if_patience_is_out(trainer)  # a resumed run may have stopped before

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
        step = trainer.global_step
        if step % self.every_n_steps and step != trainer.max_steps:
            return
        assert isinstance(module, ContrastiveModule)
        embedder = module.embedder
        if self.benchmark.resolution:
            embedder = embedder.at_resolution(self.benchmark.resolution)
        module.eval()
        scores = evaluate(embedder, self.engine, self.benchmark, RESAMPLES, warned=self._warned).scores
        module.train()
        tasks = {name: task["precision@1"] for name, task in scores["tasks"].items()}
        mean = sum(tasks.values()) / len(tasks)
        metrics = {f"validation/{name}": value for name, value in {**tasks, "mean": mean}.items()}
        module.log_dict(metrics, batch_size=1)
        best = not self.best or mean > self.best["score"]
        log.info("step %d: %s %.1f%s", step, self.benchmark.name, 100 * mean, ", the best so far" if best else "")
        self._since_best = 0 if best else self._since_best + 1
        if best:
            self.best.update(step=step, score=mean)
            if self.keep == "best":
                write_adapter(trainer, module, self.folder)
        self._stop_if_patience_is_out(trainer)

    def _stop_if_patience_is_out(self, trainer: Trainer) -> None:
        if self.patience is not None and self._since_best >= self.patience:
            trainer.should_stop = True
            if trainer.global_step < trainer.max_steps:
                log.info("step %d: training stops, the best was step %d", trainer.global_step, self.best["step"])

    def state_dict(self) -> dict[str, Any]:
        return {"best": dict(self.best), "since_best": self._since_best}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self.best.update(state_dict["best"])
        self._since_best = state_dict["since_best"]


def write_adapter(trainer: Trainer, module: LightningModule, folder: Path) -> None:
    """Save the adapter in `folder`, in place of what is there; every rank calls this, and rank 0 writes."""
    assert isinstance(module, ContrastiveModule)
    embedder = module.embedder
    with module.sync.gather_parameters(saved_parameters(embedder.backbone)):
        if trainer.is_global_zero:
            replace_folder(folder, lambda unfinished: save(embedder, unfinished))
