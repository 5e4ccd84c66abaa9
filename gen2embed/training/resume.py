"""Whether a run goes on from a checkpoint: only if all that decides its result is as it was.

Beside the checkpoints, `run.json` says what made them: the settings, which are compared before anything is loaded, and
the model, the rows and the clusters, which are compared before the first step. One batch is one step, and
random numbers depend on the step, so the number of steps is a run's whole position.

What does not decide which rows a step has may change (`CHANGEABLE`): more steps, other devices, other chunks.
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
from gen2embed.training.checkpoint import Checkpoints, is_own, remove, step_of, steps, sweep
from gen2embed.training.logger import CSVLogger
from gen2embed.types import Pair
from gen2embed.utils.errors import UserError
from gen2embed.utils.files import write_atomic
from gen2embed.utils.fingerprints import differences, json_values, without
from gen2embed.utils.log import log
from gen2embed.utils.redaction import redacted

FILE = "run.json"
PICTURES = "pictures"  # there: a digest of the rows by the content of their pictures, which rank 0 alone reads
# Settings that do not decide what is trained, and those of which we compare what they name instead: paths and devices.
FREE = {
    "output_dir", "paths", "logger", "callbacks", "benchmark", "bootstrap", "compression", "report_queries", "engine",
    "search", "resume", "shortcuts", "batch.workers", "batch.prefetch", "checkpoint", "checkpoint_revision",
    "model.path", "model.revision", "data.folder", "data.path", "data.revision", "data.image_dir",
    "data.clusters", "data.clusters_of_any_model", "data.on_error", "data.max_skipped_share",
    "trainer.accelerator", "trainer.devices",
    "trainer.num_nodes", "trainer.strategy.timeout_seconds", "trainer.default_root_dir", "trainer.enable_checkpointing",
    "trainer.enable_model_summary", "trainer.enable_progress_bar", "trainer.log_every_n_steps", "trainer.max_time",
    "trainer.profiler", "trainer.val_check_interval", "trainer.limit_val_batches",
}  # fmt: skip

# Settings that another start of the same run may have otherwise; it says what follows.
CHANGEABLE = {
    "ranks", "trainer.max_steps", "trainer.strategy",
    "batch.chunk", "batch.chunk_tokens", "batch.gradient_checkpointing",
}  # fmt: skip


class Resume:
    """What a run goes on from.

    checkpoint: the newest in the run's folder; None starts from the beginning.
    ranks: for which batches are planned: those of the run's first start.
    """

    def __init__(self, config: Mapping[str, Any], trainer: Trainer) -> None:
        """Look for a checkpoint; raises `UserError` if other settings made it. config: all of it, in plain values."""
        if config["resume"] not in ("auto", "never"):
            raise UserError(f"resume={config['resume']} is unknown; choose one of auto, never")
        self.trainer, self.checkpoint, self.folder = trainer, None, None
        device = trainer.strategy.root_device.type
        self.settings = json_values({**redacted(without(config, FREE)), "ranks": trainer.world_size, "device": device})
        self.ranks, self.run = trainer.world_size, Path(str(config.get("output_dir", "")))
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        self.callback = next((its for its in callbacks if isinstance(its, Checkpoints)), None)
        if self.callback is None:
            return
        self.folder = self.callback.folder
        if trainer.is_global_zero:
            sweep(self.folder)
        if config["resume"] == "auto" and (found := steps(self.folder)):
            self.checkpoint = found[-1]
            there = self._read()["settings"]
            here = _without_new(self.settings, there)
            self._compare("other settings", without(there, CHANGEABLE), without(here, CHANGEABLE))
            self._check_changes(there)
            self.ranks = there["ranks"]

    def check(self, embedder: Embedder, pairs: Sequence[Pair], plan: ClusterBatchSampler) -> dict[str, Any]:
        """Go on if these made the checkpoint, too; raises `UserError` if not. Without one, forget what there was.

        embedder: before anything is attached to it. Returns what they are, in words.
        """
        described = json_values({"model": embedder.fingerprint, "data": _describe(pairs), "clusters": _clusters(plan)})
        if self.checkpoint is None:
            self._begin({"settings": self.settings, **described}, pairs)
            return described
        there = self._read()
        if not embedder.backbone.is_identified_by(there["model"]["model"]):
            raise UserError(
                f"the checkpoint {self.checkpoint} is of another base: {there['model']['model']}, and this is "
                f"{described['model']['model']}; set model.path to its base, {self._remedy()}"
            )
        self._compare("another model", there["model"], described["model"])
        self._compare("other data", {"data": there["data"]}, {"data": described["data"]})
        if self.trainer.is_global_zero and PICTURES in there:
            replaced = {PICTURES: there[PICTURES]}, {PICTURES: items_digest(pairs, negatives=True)}
            self._compare("other pictures or texts", *replaced)
        self._compare("other clusters", {"clusters": there["clusters"]}, {"clusters": described["clusters"]})
        if self.trainer.is_global_zero:
            done, last = step_of(self.checkpoint), self.trainer.max_steps
            what = "continuing from" if done < last else "nothing is left to train after"
            log.info("%s step %d of %d: %s", what, done, last, self.checkpoint)
            self._tell_changes(there["settings"], done)
            settings = {**self.settings, "ranks": self.ranks}
            if settings != there["settings"]:
                self._write({**there, "settings": settings})
            assert self.callback is not None
            self.callback.thin()  # which a run that was killed right after a checkpoint did not
            for logger in self.trainer.loggers:
                if isinstance(logger, CSVLogger):
                    logger.keep(done)
        return described

    def _begin(self, run: Mapping[str, Any], pairs: Sequence[Pair]) -> None:
        if self.folder is None or not self.trainer.is_global_zero:
            return
        _refuse_foreign(self.folder)
        for path in steps(self.folder):
            remove(path)
        self._write({**run, PICTURES: items_digest(pairs, negatives=True)})

    def _write(self, run: Mapping[str, Any]) -> None:
        assert self.folder is not None
        write_atomic(self.folder / FILE, lambda file: file.write(json.dumps(run, indent=2).encode()))

    def _read(self) -> dict[str, Any]:
        assert self.checkpoint is not None
        file = self.checkpoint.with_name(FILE)
        if not file.is_file():
            raise UserError(
                f"the checkpoint {self.checkpoint} cannot be gone on from: {file} is missing; {self._remedy()}"
            )
        run = redacted(json.loads(file.read_text()))
        return {**run, "settings": translate(run["settings"])}

    def _compare(self, what: str, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
        if differing := differences(there, here):
            raise UserError(
                f"the checkpoint {self.checkpoint} was made with {what}: {'; '.join(differing)}; take the change back, "
                f"{self._remedy()}"
            )

    def _check_changes(self, there: Mapping[str, Any]) -> None:
        """Raise `UserError` for fewer steps than were done, and for shards of other ranks than this start has."""
        assert self.checkpoint is not None
        done, last = step_of(self.checkpoint), self.settings["trainer"]["max_steps"]
        if 0 <= last < done:
            raise UserError(
                f"the checkpoint {self.checkpoint} is of step {done}, and trainer.max_steps={last}: set it to {done} "
                f"or more, {self._remedy()}"
            )
        strategies = [_strategy(its) for its in (there, self.settings)]
        if not any("stage" in its for its in strategies):
            return
        if differing := differences(
            *(
                {"ranks": its["ranks"], "trainer.strategy": strategy}
                for its, strategy in zip((there, self.settings), strategies, strict=True)
            )
        ):
            raise UserError(
                f"the checkpoint {self.checkpoint} is divided among ranks by ZeRO, which no other number and no other "
                f"strategy can read: {'; '.join(differing)}; {self._remedy()}"
            )

    def _tell_changes(self, there: Mapping[str, Any], done: int) -> None:
        """Say what changes from step `done` on."""
        before, steps_now = there["trainer"]["max_steps"], self.settings["trainer"]["max_steps"]
        if before != steps_now:
            log.info(
                "trainer.max_steps was %d and is %d: from step %d on the learning rate follows a schedule of %d steps",
                before,
                steps_now,
                done,
                steps_now,
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
        old, new = ({key: its["batch"].get(key) for key in chunks} for its in (there, self.settings))
        if differing := differences({"batch": old}, {"batch": new}):
            log.info("%s: a step differs by rounding and by what dropout leaves out", "; ".join(differing))

    def _remedy(self) -> str:
        """What a user may do with a run that cannot go on as it is."""
        models = models_of(self.run)
        go_on = f" and go on from the model alone, checkpoint={models[0]}" if models else ""
        return f"choose another output_dir{go_on}, or resume=never to start over"


def _describe(pairs: Sequence[Pair]) -> str:
    subsets = ", ".join(dict.fromkeys(pair.subset for pair in pairs))
    return f"{len(pairs)} rows of {subsets} (fingerprint {data_fingerprint(pairs, negatives=True)})"


def _clusters(plan: ClusterBatchSampler) -> str:
    members = json.dumps([list(map(int, cluster)) for cluster in plan.members])
    return f"{len(plan.members)} clusters (fingerprint {hashlib.blake2b(members.encode(), digest_size=16).hexdigest()})"


def _strategy(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A run's strategy without its timeout; empty for one device."""
    strategy = settings.get("trainer", {}).get("strategy")
    return without(strategy, {"timeout_seconds"}) if isinstance(strategy, Mapping) else {}


def _without_new(here: Mapping[str, Any], there: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out settings that an earlier version did not have, where they are off, as it then behaved."""
    return {
        key: _without_new(value, there[key]) if isinstance(value, dict) and isinstance(there.get(key), dict) else value
        for key, value in here.items()
        if key in there or (value is not None and value is not False)
    }


def _refuse_foreign(folder: Path) -> None:
    """Raise `UserError` for what has the name of a run's file and was not written by one."""
    foreign = [path for path in steps(folder) if not is_own(path)]
    if (file := folder / FILE).exists() and not _is_own(file):
        foreign.append(file)
    if foreign:
        raise UserError(f"{foreign[0]} was not saved by a run of ours; move it away, or choose another output_dir")


def _is_own(file: Path) -> bool:
    try:
        return "settings" in json.loads(file.read_bytes())
    except (OSError, ValueError, TypeError):
        return False
