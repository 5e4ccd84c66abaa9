"""What the entry points share: start a run, and make its trainer and its embedder from the configuration."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path

import hydra
import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from lightning import Trainer
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from gen2embed.config.messages import explain
from gen2embed.config.overrides import added_folders, chosen_groups, chosen_keys, command_line, experiment
from gen2embed.config.pins import pins
from gen2embed.config.presets import conf_dir
from gen2embed.config.schema import check
from gen2embed.config.values import from_home, plain, register_resolvers
from gen2embed.outputs.claims import release
from gen2embed.outputs.redacted import redact_yaml
from gen2embed.runs import tracking
from gen2embed.runs.build import (
    started_together,
)
from gen2embed.runs.composition import adopt_checkpoint, drop_foreign
from gen2embed.runs.sweeps import finished
from gen2embed.utils import preemption
from gen2embed.utils.errors import UserError
from gen2embed.utils.files import write_atomic
from gen2embed.utils.log import log, quieten_libraries
from gen2embed.utils.redaction import expanded, redacted, visible


def entry_point(config_name: str) -> Callable[[Callable[[DictConfig], None]], Callable[[], None]]:
    """Make a task of a composed, checked config into a command-line program.

    A `UserError` ends it with its message alone and exit code 1; any other exception keeps its traceback. SIGTERM ends
    it with `preemption.EXIT_CODE`.
    """

    def decorate(task: Callable[[DictConfig], None]) -> Callable[[], None]:
        def checked(cfg: DictConfig) -> None:
            together = started_together() > 1 or cfg.trainer.get("num_nodes", 1) > 1
            if together and "${now:" in plain(cfg, resolve=False)["output_dir"]:
                said = "processes that start together need one folder, and the default's time differs between them"
                raise UserError(f"{said}; set output_dir=...")
            _redact_hydra()
            cfg = from_home(cfg)
            with open_dict(cfg):
                cfg.output_dir = str(Path(HydraConfig.get().runtime.output_dir).resolve())
            drop_foreign(cfg, config_name, command_line(), experiment(), added_folders())
            check(cfg, config_name, HydraConfig.get().overrides.task, added_folders())
            _pin(cfg)
            adopt_checkpoint(cfg, chosen_groups(), chosen_keys("adapter"))
            job = HydraConfig.get().mode == RunMode.MULTIRUN
            if job and finished(Path(cfg.output_dir), plain(cfg)):
                log.info("finished before: %s", cfg.output_dir)
            else:
                with tracking.ended():
                    task(cfg)

        def main() -> None:
            os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions come to us, whole
            quieten_libraries()
            register_resolvers()
            try:
                with preemption.listening():
                    hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=config_name)(checked)()
            except preemption.Preempted as stop:
                if stop.code:
                    log.warning("ended by SIGTERM, with exit code %d; the same command goes on from here", stop.code)
                raise
            except (HydraException, OmegaConfBaseException, UserError, OSError, RuntimeError) as error:
                message = explain(error, config_name, sys.argv[1:])
                if message is None:
                    raise
                sys.exit(f"error: {visible(message)}")
            finally:
                release()

        return main

    return decorate


def _pin(cfg: DictConfig) -> None:
    """Have the configuration name the commit of every hub repository: that of an earlier start, or the newest."""
    file = Path(cfg.output_dir) / "config.yaml"
    before = expanded(yaml.safe_load(file.read_text())) if file.is_file() else {}
    for key, commit in pins(plain(cfg), before).items():
        OmegaConf.update(cfg, key, commit)


def _redact_hydra() -> None:
    """Redact what Hydra itself has left of a run or a multirun."""
    its = HydraConfig.get()
    own = Path(its.runtime.output_dir) / (its.output_subdir or "")
    for file in [*own.glob("*.yaml"), Path(its.sweep.dir) / "multirun.yaml"]:
        redact_yaml(file)


def start(cfg: DictConfig, trainer: Trainer, *, leave: bool = True, continues: bool = True) -> Path:
    """Make the run's folder; rank 0 speaks for all ranks, and leaves the configuration there unless it must wait.

    It begins the runs of its loggers as well. continues: those of an earlier start, if they did not end.
    """
    (folder := Path(cfg.output_dir)).mkdir(parents=True, exist_ok=True)
    if not trainer.is_global_zero:
        logging.getLogger().setLevel(logging.ERROR)
        return folder
    if leave:
        write_config(cfg)
    tracking.begin(trainer.loggers, continues=continues, multirun=HydraConfig.get().mode == RunMode.MULTIRUN)
    return folder


def write_config(cfg: DictConfig) -> None:
    """Leave the resolved configuration in the run's folder; redacted, it names the same files when it is read again."""
    text = OmegaConf.to_yaml(OmegaConf.create(redacted(plain(cfg))))
    write_atomic(Path(cfg.output_dir) / "config.yaml", lambda file: file.write(text.encode()))
