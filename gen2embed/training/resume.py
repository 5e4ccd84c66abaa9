"""Whether a run goes on from a checkpoint: only if everything that decides its result is unchanged.

Beside the checkpoints, `run.json` records what made them: the settings, which are compared before anything is loaded,
and the model, the rows and the clusters, which are compared before the first step. One batch is one step, and random
numbers depend on the step, so the number of steps is the position of a run.

Settings that do not decide which rows a step has may change (`CHANGEABLE`): more steps, other devices, other chunks.
The batches stay those that were planned for the first number of ranks, and are divided anew.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning import Callback, Trainer

from gen2embed.config.renamed import translate
from gen2embed.data.pairs import data_fingerprint, items_digest
from gen2embed.model.embedder import Embedder
from gen2embed.model.run_models import models_of
from gen2embed.training.batches import ClusterBatchSampler
from gen2embed.training.checkpoint import Checkpoints, remove_checkpoint, remove_unfinished, saved_checkpoints, step_of
from gen2embed.training.logger import CSVLogger
from gen2embed.training.run_file import CHANGEABLE, FILE, FREE, PICTURES, refuse_foreign, strategy, without_new
from gen2embed.types import Pair
from gen2embed.utils.errors import UserError
from gen2embed.utils.files import write_json
from gen2embed.utils.fingerprints import differences, json_values, without
from gen2embed.utils.log import log
from gen2embed.utils.redaction import redacted


class Resume:
    """The checkpoint that a run goes on from, if there is one.

    Attributes:
        checkpoint: The newest in the run's folder; None starts from the beginning.
        ranks: The number of ranks that batches are planned for, which is that of the run's first start.
        inputs: The model, the rows and the clusters, in plain values; `check` sets it.
    """

    def __init__(self, config: Mapping[str, Any], trainer: Trainer) -> None:
        """Look for a checkpoint.

        Args:
            config: All settings of the run, in plain values.
            trainer: Has the callback that saves checkpoints.

        Raises:
            UserError: If other settings made the checkpoint.
        """
        if config["resume"] not in ("auto", "never"):
            raise UserError(f"resume={config['resume']} is unknown; choose one of auto, never")
        self.trainer, self.checkpoint, self.folder = trainer, None, None
        self.inputs: dict[str, Any] = {}
        device = trainer.strategy.root_device.type
        self.settings = json_values({**redacted(without(config, FREE)), "ranks": trainer.world_size, "device": device})
        self.ranks, self.run = trainer.world_size, Path(str(config.get("output_dir", "")))
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        self.callback = next((each for each in callbacks if isinstance(each, Checkpoints)), None)
        if self.callback is None:
            return
        self.folder = self.callback.folder
        if trainer.is_global_zero:
            remove_unfinished(self.folder)
        if config["resume"] == "auto" and (checkpoints := saved_checkpoints(self.folder)):
            self.checkpoint = checkpoints[-1]
            saved = self._read()["settings"]
            settings = without_new(self.settings, saved)
            self._compare("other settings", without(saved, CHANGEABLE), without(settings, CHANGEABLE))
            self._check_changes(saved)
            self.ranks = saved["ranks"]

    def check(self, embedder: Embedder, pairs: Sequence[Pair], plan: ClusterBatchSampler) -> None:
        """Compare the model, the rows and the clusters with those of the checkpoint, and prepare the run's folder.

        Without a checkpoint to go on from, those that lie in the folder are removed.

        Args:
            embedder: The embedder before an adapter is attached to it.
            pairs: The training rows.
            plan: The plan of the batches, with its clusters.

        Raises:
            UserError: The checkpoint was made with another model, other rows or other clusters.
        """
        inputs = {"model": embedder.fingerprint, "data": _describe(pairs), "clusters": _describe_clusters(plan)}
        self.inputs = json_values(inputs)
        if self.checkpoint is None:
            self._begin(pairs)
            return
        saved = self._read()
        self._compare_inputs(saved, embedder, pairs)
        if self.trainer.is_global_zero:
            self._continue(self.checkpoint, saved)

    def _begin(self, pairs: Sequence[Pair]) -> None:
        if self.folder is None or not self.trainer.is_global_zero:
            return
        refuse_foreign(self.folder)
        for path in saved_checkpoints(self.folder):
            remove_checkpoint(path)
        self._write({"settings": self.settings, **self.inputs, PICTURES: items_digest(pairs, negatives=True)})

    def _compare_inputs(self, saved: Mapping[str, Any], embedder: Embedder, pairs: Sequence[Pair]) -> None:
        base, inputs = saved["model"]["model"], self.inputs
        if not embedder.backbone.is_identified_by(base):
            raise UserError(
                f"the checkpoint {self.checkpoint} is of another base: {base}, and this is "
                f"{inputs['model']['model']}; set model.path to its base, {self._remedy()}"
            )
        self._compare("another model", saved["model"], inputs["model"])
        self._compare("other data", {"data": saved["data"]}, {"data": inputs["data"]})
        if self.trainer.is_global_zero and PICTURES in saved:
            pictures = {PICTURES: items_digest(pairs, negatives=True)}
            self._compare("other pictures or texts", {PICTURES: saved[PICTURES]}, pictures)
        self._compare("other clusters", {"clusters": saved["clusters"]}, {"clusters": inputs["clusters"]})

    def _continue(self, checkpoint: Path, saved: Mapping[str, Any]) -> None:
        """Log where the run continues, save changed settings, and drop what was logged after the checkpoint."""
        done, last = step_of(checkpoint), self.trainer.max_steps
        action = "continuing from" if done < last else "nothing is left to train after"
        log.info("%s step %d of %d: %s", action, done, last, checkpoint)
        self._log_changes(saved["settings"], done)
        settings = {**self.settings, "ranks": self.ranks}
        if settings != saved["settings"]:
            self._write({**saved, "settings": settings})
        assert self.callback is not None
        self.callback.thin()  # a run that was killed right after a checkpoint did not
        for logger in self.trainer.loggers:
            if isinstance(logger, CSVLogger):
                logger.keep(done)

    def _write(self, run: Mapping[str, Any]) -> None:
        assert self.folder is not None
        write_json(self.folder / FILE, run)

    def _read(self) -> dict[str, Any]:
        assert self.checkpoint is not None
        file = self.checkpoint.with_name(FILE)
        if not file.is_file():
            raise UserError(
                f"no run can go on from the checkpoint {self.checkpoint}: {file} is missing; {self._remedy()}"
            )
        run = redacted(json.loads(file.read_text()))
        return {**run, "settings": translate(run["settings"])}

    def _compare(self, cause: str, saved: Mapping[str, Any], current: Mapping[str, Any]) -> None:
        """Raise `UserError` if the values differ; `cause` says in words what made the checkpoint instead."""
        if differing := differences(saved, current):
            raise UserError(
                f"the checkpoint {self.checkpoint} was made with {cause}: {'; '.join(differing)}; undo the change, "
                f"{self._remedy()}"
            )

    def _check_changes(self, saved: Mapping[str, Any]) -> None:
        """Raise `UserError` for fewer steps than are done, and for shards that these ranks cannot read."""
        assert self.checkpoint is not None
        done, last = step_of(self.checkpoint), self.settings["trainer"]["max_steps"]
        if 0 <= last < done:
            raise UserError(
                f"the checkpoint {self.checkpoint} is of step {done}, and trainer.max_steps={last}: set it to {done} "
                f"or more, {self._remedy()}"
            )
        shards = [
            {"ranks": settings["ranks"], "trainer.strategy": strategy(settings)} for settings in (saved, self.settings)
        ]
        divided = any("stage" in side["trainer.strategy"] for side in shards)
        if divided and (differing := differences(*shards)):
            raise UserError(
                f"the checkpoint {self.checkpoint} is divided among ranks by ZeRO, which no other number and no other "
                f"strategy can read: {'; '.join(differing)}; {self._remedy()}"
            )

    def _log_changes(self, saved: Mapping[str, Any], done: int) -> None:
        """Log what changes from step `done` on."""
        before, last = saved["trainer"]["max_steps"], self.settings["trainer"]["max_steps"]
        if before != last:
            log.info(
                "trainer.max_steps was %d and is %d: from step %d on the learning rate follows a schedule of %d steps",
                before,
                last,
                done,
                last,
            )
        ranks = self.trainer.world_size
        if ranks != self.ranks:
            log.info(
                "the batches were planned for %d ranks and are divided among %d: a step has the same rows, and differs "
                "by rounding and by what dropout leaves out",
                self.ranks,
                ranks,
            )
        chunks = ("chunk", "chunk_tokens", "gradient_checkpointing")
        old, new = ({key: settings["batch"].get(key) for key in chunks} for settings in (saved, self.settings))
        if differing := differences({"batch": old}, {"batch": new}):
            log.info("%s: a step differs by rounding and by what dropout leaves out", "; ".join(differing))

    def _remedy(self) -> str:
        """Return what a user may do with a run that cannot go on as it is."""
        models = models_of(self.run)
        alone = f" and go on from the model alone, checkpoint={models[0]}" if models else ""
        return f"choose another output_dir{alone}, or resume=never to start over"


def _describe(pairs: Sequence[Pair]) -> str:
    subsets = ", ".join(dict.fromkeys(pair.subset for pair in pairs))
    return f"{len(pairs)} rows of {subsets} (fingerprint {data_fingerprint(pairs, negatives=True)})"


def _describe_clusters(plan: ClusterBatchSampler) -> str:
    members = json.dumps([list(map(int, cluster)) for cluster in plan.members])
    return f"{len(plan.members)} clusters (fingerprint {hashlib.blake2b(members.encode(), digest_size=16).hexdigest()})"
