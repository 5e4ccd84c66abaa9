"""Claims the folder of a run before Hydra writes its settings and its log there."""

from __future__ import annotations

import sys
from typing import Any

from hydra.experimental.callback import Callback

from gen2embed.config import explain
from gen2embed.errors import UserError
from gen2embed.outputs.claims import claim
from gen2embed.redaction import visible


class ClaimFolder(Callback):
    """Ends the program with a message where a run or a multirun may not write in its folder.

    Hydra turns what a callback raises into a warning, unless it is `SystemExit`.
    """

    def on_run_start(self, config: Any, **_: Any) -> None:
        """Claim the folder of a single run."""
        _claim(config, "run", several=False)

    def on_multirun_start(self, config: Any, **_: Any) -> None:
        """Claim the folder in which each job has its own."""
        _claim(config, "sweep", several=True)


def _claim(config: Any, mode: str, *, several: bool) -> None:
    try:
        folder, script = config.hydra[mode].dir, config.hydra.job.config_name
    except Exception:  # a setting that cannot be resolved, which Hydra raises again as soon as it makes the folder
        return
    try:
        if not config.get("output_dir", folder):
            raise UserError("output_dir is empty; name a folder")
        claim(folder, script, several=several)
    except (UserError, OSError) as error:
        if (message := explain(error, script, ())) is None:
            raise
        sys.exit(f"error: {visible(message)}")
