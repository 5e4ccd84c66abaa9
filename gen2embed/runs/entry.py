"""Turn a function of a configuration into a command-line program, and start its run.

Modules that import Lightning or torch are imported when a run starts, so that `--help` does not wait for them.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from gen2embed.config.messages import explain
from gen2embed.config.overrides import added_folders, chosen_groups, chosen_keys, command_line, experiment
from gen2embed.config.pins import pins
from gen2embed.config.presets import conf_dir
from gen2embed.config.schema import check
from gen2embed.config.values import from_home, plain, register_resolvers
from gen2embed.outputs.claims import release_claims
from gen2embed.outputs.redacted import redact_yaml
from gen2embed.runs.sweeps import is_finished
from gen2embed.utils import preemption
from gen2embed.utils.errors import UserError
from gen2embed.utils.files import write_atomic
from gen2embed.utils.log import log, quieten_libraries
from gen2embed.utils.redaction import expanded, redacted, visible

if TYPE_CHECKING:
    from lightning import Trainer


def entry_point(config_name: str) -> Callable[[Callable[[DictConfig], None]], Callable[[], None]]:
    """Return a decorator that makes a function of a composed, checked configuration a command-line program.

    A `UserError` ends the program with its message and exit code 1; any other exception keeps its traceback. SIGTERM
    ends it with `preemption.EXIT_CODE`.

    Args:
        config_name: The file of `conf/` to compose, without `.yaml`.
    """

    def decorate(task: Callable[[DictConfig], None]) -> Callable[[], None]:
        def run_checked(cfg: DictConfig) -> None:
            from gen2embed.runs import tracking  # noqa: PLC0415

            quieten_libraries()
            cfg = _complete(cfg, config_name)
            if _is_job() and is_finished(Path(cfg.output_dir), plain(cfg)):
                log.info("finished before: %s", cfg.output_dir)
                return
            with tracking.end_runs():
                task(cfg)

        def main() -> None:
            os.environ["HYDRA_FULL_ERROR"] = "1"  # so that exceptions reach us
            register_resolvers()
            try:
                with preemption.listening():
                    hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=config_name)(run_checked)()
            except preemption.Preempted as stop:
                if stop.code:
                    log.warning("ended by SIGTERM, with exit code %d; the same command goes on from here", stop.code)
                raise
            except (HydraException, OmegaConfBaseException, UserError, OSError, RuntimeError, ValueError) as error:
                message = explain(error, config_name, sys.argv[1:])
                if message is None:
                    raise
                sys.exit(f"error: {visible(message)}")
            finally:
                release_claims()

        return main

    return decorate


def _complete(cfg: DictConfig, config_name: str) -> DictConfig:
    """Return the configuration that the run is to follow: checked, with its folder, commits and checkpoint."""
    from gen2embed.runs.build import started_together  # noqa: PLC0415
    from gen2embed.runs.composition import adopt_checkpoint, drop_foreign  # noqa: PLC0415

    nodes = cfg.trainer.get("num_nodes", 1)  # not checked yet
    simultaneous = started_together() > 1 or (isinstance(nodes, int) and nodes > 1)
    if simultaneous and "${now:" in plain(cfg, resolve=False)["output_dir"]:
        raise UserError(
            "processes that start together need one folder, and the default names a time, which differs between them; "
            "set output_dir=..."
        )
    _redact_hydra()
    cfg = from_home(cfg)
    with open_dict(cfg):
        cfg.output_dir = str(Path(HydraConfig.get().runtime.output_dir).resolve())
    drop_foreign(cfg, config_name, command_line(), experiment(), added_folders())
    check(cfg, config_name, HydraConfig.get().overrides.task, added_folders())
    _pin(cfg)
    adopt_checkpoint(cfg, chosen_groups(), chosen_keys("adapter"))
    return cfg


def _is_job() -> bool:
    """Return whether this run is a job of a multirun."""
    return HydraConfig.get().mode == RunMode.MULTIRUN


def _pin(cfg: DictConfig) -> None:
    """Write the commit of every hub repository into the configuration: that of an earlier start, or the newest."""
    file = Path(cfg.output_dir) / "config.yaml"
    before = expanded(yaml.safe_load(file.read_text())) if file.is_file() else {}
    for key, commit in pins(plain(cfg), before).items():
        OmegaConf.update(cfg, key, commit)


def _redact_hydra() -> None:
    """Redact the files that Hydra has written in the folder of a run or a multirun."""
    settings = HydraConfig.get()
    folder = Path(settings.runtime.output_dir) / (settings.output_subdir or "")
    for file in [*folder.glob("*.yaml"), Path(settings.sweep.dir) / "multirun.yaml"]:
        redact_yaml(file)


def start(cfg: DictConfig, trainer: Trainer, *, write: bool = True, continues: bool = True) -> Path:
    """Make the run's folder and return it; rank 0 also writes the configuration, and begins the runs of the loggers.

    Args:
        cfg: The configuration.
        trainer: Has the rank and the loggers; ranks other than 0 log errors only.
        write: Whether to write the configuration now. A resumed run writes it once its checkpoint is checked.
        continues: Whether a logger's run that an earlier start left open goes on.
    """
    (folder := Path(cfg.output_dir)).mkdir(parents=True, exist_ok=True)
    if not trainer.is_global_zero:
        logging.getLogger().setLevel(logging.ERROR)
        return folder
    if write:
        write_config(cfg)
    from gen2embed.runs import tracking  # noqa: PLC0415

    tracking.begin(trainer.loggers, continues=continues, multirun=_is_job())
    return folder


def write_config(cfg: DictConfig) -> None:
    """Write the resolved configuration, redacted, in the run's folder as `config.yaml`."""
    text = OmegaConf.to_yaml(OmegaConf.create(redacted(plain(cfg))))
    write_atomic(Path(cfg.output_dir) / "config.yaml", lambda file: file.write(text.encode()))
