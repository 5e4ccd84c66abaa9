"""`run.json`, which lies beside the checkpoints of a run: which settings it compares, and whose file it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gen2embed.training.checkpoint import is_own, saved_checkpoints
from gen2embed.utils.errors import UserError
from gen2embed.utils.fingerprints import without

FILE = "run.json"
PICTURES = "pictures"  # in that file: a digest of the rows by the content of their pictures, which rank 0 alone reads
# Settings that do not decide what is trained, and paths and devices, where what they name is compared instead.
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

# Settings that another start of the same run may change; it logs what follows from that.
CHANGEABLE = {
    "ranks", "trainer.max_steps", "trainer.strategy",
    "batch.chunk", "batch.chunk_tokens", "batch.gradient_checkpointing",
}  # fmt: skip


def strategy(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run's strategy without its timeout; empty for one device."""
    strategy = settings.get("trainer", {}).get("strategy")
    return without(strategy, {"timeout_seconds"}) if isinstance(strategy, Mapping) else {}


def without_new(settings: Mapping[str, Any], saved: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings without those that the saved ones lack and that are off: they are newer than that run."""
    return {
        key: without_new(value, saved[key]) if isinstance(value, dict) and isinstance(saved.get(key), dict) else value
        for key, value in settings.items()
        if key in saved or (value is not None and value is not False)
    }


def refuse_foreign(folder: Path) -> None:
    """Raise `UserError` for files that have the names of a run's and were written by something else."""
    foreign = [path for path in saved_checkpoints(folder) if not is_own(path)]
    if (file := folder / FILE).exists() and not _is_own(file):
        foreign.append(file)
    if foreign:
        raise UserError(f"{foreign[0]} was not saved by a run of gen2embed; move it away, or choose another output_dir")


def _is_own(file: Path) -> bool:
    try:
        return "settings" in json.loads(file.read_bytes())
    except (OSError, ValueError, TypeError):
        return False
