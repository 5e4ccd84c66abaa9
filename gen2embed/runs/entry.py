"""What the entry points share: start a run, and make its trainer and its embedder from the configuration."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import hydra
import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from hydra.utils import instantiate
from lightning import Trainer
from lightning.fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Checkpoint
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from gen2embed.config.overrides import added_folders, chosen_groups, chosen_keys, command_line, experiment, overridden
from gen2embed.config.pins import pins
from gen2embed.config.presets import conf_dir
from gen2embed.config.schema import check, explain, from_home, make_saved, plain, register_resolvers
from gen2embed.data import pictures as images
from gen2embed.data.benchmark import Benchmark, several
from gen2embed.data.pairs import PairSource
from gen2embed.data.quarantine import sound_pairs
from gen2embed.model.backbone import check_path
from gen2embed.model.embedder import Embedder
from gen2embed.model.source import find_adapter
from gen2embed.outputs.claims import release
from gen2embed.outputs.paths import check_writable
from gen2embed.reports.evaluation.page import check_count
from gen2embed.runs import tracking
from gen2embed.runs.composition import adopt_checkpoint, drop_foreign
from gen2embed.runs.results import redact_yaml
from gen2embed.runs.sweeps import finished
from gen2embed.search.exact import Search
from gen2embed.training.checkpoint import CheckpointFiles
from gen2embed.types import Pair, UserError, first_line
from gen2embed.utils import preemption
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


def started_together() -> int:
    """How many processes torchrun or Slurm started for this run; 1 where this one starts the others, if any."""
    if TorchElasticEnvironment.detect():
        return int(os.environ["WORLD_SIZE"])
    return int(os.environ["SLURM_NTASKS"]) if SLURMEnvironment.detect() else 1


def make_trainer(cfg: DictConfig) -> Trainer:
    """The trainer of `cfg.trainer` with its logger and callbacks.

    Raises `UserError` for what Lightning refuses, and where the processes would not be the trainer's ranks.
    """
    try:
        logger = instantiate(cfg.logger) or False
    except HydraException as error:  # of a package that is missing, or of settings that contradict each other
        first = first_line(error.__cause__ or error)
        raise UserError(f"the logger cannot be made: {first}; install what it needs, or choose logger=csv") from error
    try:
        # Lightning's own requeueing would save in the middle of a step; a job that Slurm starts again goes on by itself
        slurm = [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []
        callbacks = list(instantiate(cfg.get("callbacks") or {}).values())
        make = instantiate(cfg.trainer, _partial_=True)
        trainer = make(
            logger=logger,
            callbacks=callbacks,
            enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
            plugins=[CheckpointFiles(), *slurm, *(make.keywords.get("plugins") or [])],
        )
    except (MisconfigurationException, ModuleNotFoundError, RuntimeError, ValueError, TypeError) as error:
        raise UserError(f"the trainer cannot be made: {error}") from error
    # `preemption` has the handler: Lightning's would broadcast between the ranks in the middle of whatever they do
    trainer._signal_connector.register_signal_handlers = lambda: None
    ranks = trainer.num_devices * trainer.num_nodes
    if (started := started_together()) not in (1, ranks):
        raise UserError(
            f"{started} processes were started together, and trainer.devices and num_nodes make {ranks} ranks; make "
            "them equal, with strategy=ddp"
        )
    if ranks > 1 and HydraConfig.get().mode == RunMode.MULTIRUN:
        raise UserError(
            f"a multirun uses one device, and here each of {ranks} ranks would run every job; start each job by "
            "itself, without -m, or choose strategy=single"
        )
    return trainer


def start(cfg: DictConfig, trainer: Trainer, *, leave: bool = True, continues: bool = True) -> Path:
    """Make the run's folder; rank 0 speaks for all ranks, and leaves the configuration there unless it must wait.

    It begins the runs of its loggers as well. continues: those of an earlier start, if they did not end.
    """
    (folder := Path(cfg.output_dir)).mkdir(parents=True, exist_ok=True)
    if not trainer.is_global_zero:
        logging.getLogger().setLevel(logging.ERROR)
        return folder
    if leave:
        leave_config(cfg)
    tracking.begin(trainer.loggers, continues=continues, multirun=HydraConfig.get().mode == RunMode.MULTIRUN)
    return folder


def leave_config(cfg: DictConfig) -> None:
    """Leave the resolved configuration in the run's folder; redacted, it names the same files when it is read again."""
    text = OmegaConf.to_yaml(OmegaConf.create(redacted(plain(cfg))))
    write_atomic(Path(cfg.output_dir) / "config.yaml", lambda file: file.write(text.encode()))


def read_data(folder: Path) -> PairSource:
    """The rows that a run in `folder` was given, by its `config.yaml`; raises `UserError` if that says none."""
    file = folder / "config.yaml"
    if not file.is_file():
        raise UserError(f"{file} does not exist; it says where the rows of a run lie, and every run leaves one")
    data = plain(cast(DictConfig, OmegaConf.load(file)), resolve=False).get("data")
    if not isinstance(data, dict) or "_target_" not in data:
        raise UserError(f"{file} names no data: it is not of a run of mine.py or train.py")
    return make_saved(data, "data")


def read_pairs(data: PairSource, trainer: Trainer, folder: Path) -> list[Pair]:
    """The training pairs that a run in `folder` takes; rank 0 checks their pictures for all."""
    seconds = getattr(trainer.strategy, "timeout_seconds", 0.0)  # of several ranks; a single one waits for none
    return sound_pairs(data, folder, leader=trainer.is_global_zero, seconds=seconds)


def check_sources(cfg: DictConfig) -> None:
    """Raise `UserError` if the model or the checkpoint of `cfg` is not there, or a store cannot be. Loads nothing."""
    for store in (cfg.engine.store, (cfg.get("search") or {}).get("store"), cfg.paths.cluster_dir):
        if store is not None:
            check_writable(Path(store))
    check_path(cfg.model.path)
    if cfg.checkpoint and find_adapter(cfg.checkpoint, cfg.checkpoint_revision) is None:
        check_path(cfg.checkpoint)


def make_benchmarks(cfg: DictConfig, chosen: DictConfig | None, trainer: Trainer) -> list[Benchmark]:
    """Read the chosen benchmark of `cfg`, or the several that it holds by name, or none; rank 0 checks pictures."""
    check_count(cfg.report_queries)
    benchmarks = several(instantiate(chosen, _convert_="all"))
    for benchmark in benchmarks:
        if trainer.is_global_zero:
            images.check(benchmark.pictures, benchmark.roots)
        if "resolution" in overridden() and benchmark.resolution not in (None, cfg.resolution.policy):
            log.warning(
                "%s is evaluated at its published resolution, %s; set it to null for the chosen one",
                benchmark.name,
                benchmark.resolution,
            )
    return benchmarks


def make_embedder(cfg: DictConfig, trainer: Trainer, checkpoint: str | None = None) -> Embedder:
    """The model of `cfg`, with a checkpoint or that of `cfg`, on the trainer's device.

    With a checkpoint, what the command line does not choose of prompt and resolution is what the checkpoint carries.
    """
    chosen, revision = chosen_groups(), None if checkpoint else cfg.checkpoint_revision
    checkpoint = checkpoint or cfg.checkpoint
    sources: dict[str, Any] = {"adapter": checkpoint, "adapter_revision": revision}
    if checkpoint and find_adapter(checkpoint, revision) is None:
        sources = {"path": checkpoint, "revision": revision}
    return instantiate(cfg.model, _partial_=True)(
        prompt=instantiate(cfg.prompt, _convert_="all") if "prompt" in chosen or not checkpoint else None,
        resolution=instantiate(cfg.resolution) if "resolution" in chosen or not checkpoint else None,
        device=str(trainer.strategy.root_device),
        **sources,
    )


def make_search(cfg: DictConfig, trainer: Trainer) -> Search:
    """The search of `cfg`, on the trainer's device unless another is chosen."""
    device = trainer.strategy.root_device
    ours = str(device) if device.type in ("cpu", "cuda") else "cpu"  # it needs float64
    return instantiate(cfg.search, device=ours if cfg.search.device == "auto" else cfg.search.device)
