"""Begin the runs of loggers before a model is loaded, and end them with their job.

By itself, a logger such as W&B's connects when the first value is logged, after hours of work. And its run goes on in
the next job of a multirun, which is the same process.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.loggers.csv_logs import CSVLogger

from gen2embed.outputs.paths import check_writable
from gen2embed.utils.compat import wandb_run_id
from gen2embed.utils.errors import UserError, first_line
from gen2embed.utils.files import named
from gen2embed.utils.log import log

INTERRUPTED = 130  # as a shell reports a process that Ctrl-C ended


def begin(loggers: Sequence[Logger], *, continues: bool, multirun: bool = False) -> None:
    """Begin the runs of loggers; raise `UserError` for one that cannot.

    Args:
        loggers: The loggers of the trainer.
        continues: Whether the job goes on where an earlier start was cut off. Then a run of W&B that did not end goes
            on, too (`logger.resume=auto` keeps its id in the run's folder); otherwise a new one begins.
        multirun: Whether the job is one of several with the same settings.
    """
    for logger in loggers:
        if logger.save_dir is not None:
            _check_folder(Path(logger.save_dir))
        if isinstance(logger, WandbLogger):
            _check_id(logger, multirun)
            if not continues:
                (Path(logger.save_dir or ".") / "wandb" / "wandb-resume.json").unlink(missing_ok=True)
        if isinstance(logger, CSVLogger):
            continue  # it connects to nothing, and its file must first be cut to the checkpoint
        try:
            _ = logger.experiment  # type: ignore[attr-defined]  # each logger of Lightning has one
        except Exception as error:  # each service has errors of its own
            remedy = "choose logger=csv or logger=none, which need nothing"
            if isinstance(logger, WandbLogger):
                remedy = "call `wandb login`, or set logger.offline=true (or WANDB_MODE=offline), or logger=csv"
            first = first_line(error).rstrip(".")
            raise UserError(f"{type(logger).__name__} cannot begin a run: {first}; {remedy}") from error


def _check_folder(folder: Path) -> None:
    """Raise the system's error, with the folder's name, if nothing can be written there: W&B would write elsewhere."""
    with named(folder):
        folder.mkdir(parents=True, exist_ok=True)
        check_writable(folder)


def _check_id(logger: WandbLogger, multirun: bool) -> None:
    """Raise `UserError` if all jobs of a multirun would write to one run of W&B."""
    chosen = {"logger.id": wandb_run_id(logger), "WANDB_RUN_ID": os.environ.get("WANDB_RUN_ID")}
    if multirun and (keys := [key for key, value in chosen.items() if value]):
        raise UserError(
            f"{keys[0]}={chosen[keys[0]]} names one run of W&B, and each job of a multirun needs its own; unset it"
        )


@contextmanager
def end_runs() -> Iterator[None]:
    """End the run of W&B that began inside of the context, with the exit code of the job."""
    mode, code = os.environ.get("WANDB_MODE"), 1
    try:
        yield
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        raise
    except KeyboardInterrupt:
        code = INTERRUPTED
        raise
    finally:
        _end_wandb(code)
        # Lightning's logger sets it for offline=true, and the next job may be online
        if mode is None:
            os.environ.pop("WANDB_MODE", None)
        else:
            os.environ["WANDB_MODE"] = mode


def _end_wandb(code: int) -> None:
    wandb = sys.modules.get("wandb")
    if wandb is None or wandb.run is None:
        return
    try:
        wandb.finish(exit_code=code)
    except Exception as error:  # the job is over, and its own error counts
        log.warning("the run of W&B could not be ended: %s", first_line(error))
