"""Claim the folder of a run before Hydra writes its settings and its log there."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from hydra.experimental.callback import Callback
from hydra.types import RunMode

from gen2embed.config.messages import explain
from gen2embed.outputs.claims import claim_run_folder
from gen2embed.utils.errors import UserError
from gen2embed.utils.redaction import visible


class ClaimFolder(Callback):
    """A callback of Hydra that ends the program if a run or a multirun may not write in its folder.

    It raises `SystemExit`, as Hydra turns other exceptions of a callback into warnings.
    """

    def on_run_start(self, config: Any, **_: Any) -> None:
        """Claim the folder of a single run."""
        _claim(config, "run", several=False)

    def on_multirun_start(self, config: Any, **_: Any) -> None:
        """Claim the folder in which each job has its own."""
        _claim(config, "sweep", several=True)

    def on_job_start(self, config: Any, **_: Any) -> None:
        """Claim the folder of a job of a multirun, which holds the settings and the log that Hydra wrote."""
        if config.hydra.mode == RunMode.MULTIRUN:
            _claim(
                config,
                "sweep",
                several=False,
                begun=(config.hydra.output_subdir, f"{config.hydra.job.config_name}.log"),
            )


def _claim(config: Any, mode: str, *, several: bool, begun: Sequence[str | None] = ()) -> None:
    try:
        folder = config.hydra.runtime.output_dir if begun else config.hydra[mode].dir
        script = config.hydra.job.config_name
    except Exception:  # a setting that cannot be resolved: Hydra raises it again when it makes the folder
        return
    try:
        if not config.get("output_dir", folder):
            raise UserError("output_dir is empty; name a folder")
        claim_run_folder(folder, script, several=several, begun=[name for name in begun if name])
    except (UserError, OSError) as error:
        if (message := explain(error, script, ())) is None:
            raise
        sys.exit(f"error: {visible(message)}")
