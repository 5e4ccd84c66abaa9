"""Whether a run goes on from a checkpoint: only if all that decides its result is as it was.

Beside the checkpoints, `run.json` says what made them: the settings, which are compared before anything is loaded, and
the model, the rows and the clusters, which are compared before the first step. One batch is one step, and
random numbers depend on the step, so the number of steps is a run's whole position.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from lightning import Callback, Trainer

from gen2embed.checkpoint import Checkpoints, remove, step_of, steps, sweep
from gen2embed.data.batches import BatchPlan
from gen2embed.data.clusters import data_fingerprint
from gen2embed.encoder.embedder import Embedder
from gen2embed.encoder.store import differences, without
from gen2embed.files import write_atomic
from gen2embed.log import log
from gen2embed.logger import CSVLogger
from gen2embed.redaction import redacted
from gen2embed.types import Pair, UserError

FILE = "run.json"
REMEDY = "choose another output_dir, or resume=never to start over"
# Settings that do not decide what is trained, and those of which we compare what they name instead: paths and devices.
FREE = {
    "output_dir", "paths", "logger", "callbacks", "benchmark", "bootstrap", "compression", "report_queries", "engine",
    "search", "resume", "shortcuts", "batch.workers", "checkpoint", "checkpoint_revision",
    "model.path", "model.revision", "data.folder", "data.path", "data.revision", "data.image_dir",
    "data.clusters", "data.clusters_of_any_model", "data.on_error", "data.max_skipped_share",
    "trainer.accelerator", "trainer.devices",
    "trainer.num_nodes", "trainer.strategy.timeout_seconds", "trainer.default_root_dir", "trainer.enable_checkpointing",
    "trainer.enable_model_summary", "trainer.enable_progress_bar", "trainer.log_every_n_steps", "trainer.max_time",
    "trainer.profiler", "trainer.val_check_interval", "trainer.limit_val_batches",
}  # fmt: skip


class Resume:
    """What a run goes on from.

    checkpoint: the newest in the run's folder; None starts from the beginning.
    """

    def __init__(self, config: Mapping[str, Any], trainer: Trainer) -> None:
        """Look for a checkpoint; raises `UserError` if other settings made it. config: all of it, in plain values."""
        if config["resume"] not in ("auto", "never"):
            raise UserError(f"resume={config['resume']} is unknown; choose one of auto, never")
        self.trainer, self.checkpoint, self.folder = trainer, None, None
        device = trainer.strategy.root_device.type
        self.settings = _plain({**redacted(without(config, FREE)), "ranks": trainer.world_size, "device": device})
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        self.callback = next((its for its in callbacks if isinstance(its, Checkpoints)), None)
        if self.callback is None:
            return
        self.folder = self.callback.folder
        if trainer.is_global_zero:
            sweep(self.folder)
        if config["resume"] == "auto" and (found := steps(self.folder)):
            self.checkpoint = found[-1]
            self._compare("other settings", self._read()["settings"], self.settings)

    def check(self, embedder: Embedder, pairs: Sequence[Pair], plan: BatchPlan) -> dict[str, Any]:
        """Go on if these made the checkpoint, too; raises `UserError` if not. Without one, forget what there was.

        embedder: before anything is attached to it. Returns what they are, in words.
        """
        described = _plain({"model": embedder.fingerprint, "data": _describe(pairs), "clusters": _clusters(plan)})
        if self.checkpoint is None:
            self._begin({"settings": self.settings, **described})
            return described
        there = self._read()
        if not embedder.backbone.is_identified_by(there["model"]["model"]):
            raise UserError(
                f"the checkpoint {self.checkpoint} is of another base: {there['model']['model']}, and this is "
                f"{described['model']['model']}; set model.path to its base, {REMEDY}"
            )
        self._compare("another model", there["model"], described["model"])
        for what in ("data", "clusters"):
            self._compare(f"other {what}", {what: there[what]}, {what: described[what]})
        if self.trainer.is_global_zero:
            done, last = step_of(self.checkpoint), self.trainer.max_steps
            what = "continuing from" if done < last else "nothing is left to train after"
            log.info("%s step %d of %d: %s", what, done, last, self.checkpoint)
            assert self.callback is not None
            self.callback.thin()  # which a run that was killed right after a checkpoint did not
            for logger in self.trainer.loggers:
                if isinstance(logger, CSVLogger):
                    logger.keep(done)
        return described

    def _begin(self, run: Mapping[str, Any]) -> None:
        if self.folder is None or not self.trainer.is_global_zero:
            return
        for path in self.folder.glob("*.ckpt"):
            remove(path)
        write_atomic(self.folder / FILE, lambda file: file.write(json.dumps(run, indent=2).encode()))

    def _read(self) -> dict[str, Any]:
        assert self.checkpoint is not None
        file = self.checkpoint.with_name(FILE)
        if not file.is_file():
            raise UserError(f"the checkpoint {self.checkpoint} cannot be gone on from: {file} is missing; {REMEDY}")
        return redacted(json.loads(file.read_text()))

    def _compare(self, what: str, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
        if differing := differences(there, here):
            raise UserError(f"the checkpoint {self.checkpoint} was made with {what}: {'; '.join(differing)}; {REMEDY}")


def _describe(pairs: Sequence[Pair]) -> str:
    subsets = ", ".join(dict.fromkeys(pair.subset for pair in pairs))
    return f"{len(pairs)} rows of {subsets} (fingerprint {data_fingerprint(pairs, negatives=True)})"


def _clusters(plan: BatchPlan) -> str:
    members = json.dumps([list(map(int, cluster)) for cluster in plan.members])
    return f"{len(plan.members)} clusters (fingerprint {hashlib.blake2b(members.encode(), digest_size=16).hexdigest()})"


def _plain(value: Mapping[str, Any]) -> dict[str, Any]:
    """As it reads back from JSON."""
    return json.loads(json.dumps(value, default=str))
