"""Rehearse the paper's experiments, a few steps of each, without weights or data to download.

    python -m examples.rehearsal.rehearse outputs/dry

First comes a table of the memory that the training of each needs in its real size (`estimate`). Then every
`conf/experiment/paper_*.yaml` is run by the command in its header, with the embedded model in float32 in place of its
weights, and stand-ins in the layouts of MMEB, SugarCrepe and SugarCrepe++ in place of its data. Everything else is as
in the experiment: prompts, resolutions, adapter, precision, mining, training on several processes, checkpoints,
scoring. Each runs in a fork of a process that has imported the libraries.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import runpy
import shlex
import sys
import time
from pathlib import Path

from rich.table import Table

from examples.rehearsal.estimate import memory_table
from examples.rehearsal.stand_ins import write_mmeb_eval, write_mmeb_train, write_sugarcrepe
from gen2embed.config.presets import PACKAGE, compose_shipped, conf_dir
from gen2embed.config.schema import check
from gen2embed.config.values import register_resolvers
from gen2embed.outputs.paths import check_folder, record_folder, remove_folder
from gen2embed.runs.console import print_table
from gen2embed.utils.errors import UserError

WRITER = "rehearsal"  # in the record of outputs
SCRIPTS = ("mine.py", "train.py", "eval.py")  # in the order in which they read the outputs of each other
OUTPUTS = {"mine.py": "clusters.parquet", "train.py": "adapter/adapter_model.safetensors", "eval.py": "results.json"}
ROWS, QUERIES, CANDIDATES = 20, 2, 3  # of a training subset, of an evaluation task, of a query


def experiments() -> list[tuple[str, str]]:
    """Return the script and the name of each experiment of the paper, from its header."""
    commands = []
    for file in sorted((conf_dir() / "experiment").glob("paper_*.yaml")):
        _, script, *arguments = shlex.split(file.read_text().splitlines()[1].removeprefix("# "))
        if arguments != [f"experiment={file.stem}"] or script not in SCRIPTS:
            raise ValueError(f"{file} does not begin with its command")
        commands.append((script, file.stem))
    return sorted(commands, key=lambda pair: (SCRIPTS.index(pair[0]), pair[1]))


def overrides(script: str, folder: Path, devices: int = 1) -> list[str]:
    """Return the settings that replace weights, data and length of an experiment, and nothing else.

    Args:
        script: The script that runs it.
        folder: The folder of the rehearsal.
        devices: The devices that the experiment asks for.
    """
    data = folder / "data"
    out = [f"model.path={PACKAGE / 'tiny' / 'checkpoint'}", f"paths.data_dir={data}", f"paths.output_dir={folder}"]
    out += ["trainer.accelerator=cpu", "model.dtype=float32"]  # most CPUs are twenty times slower in bfloat16
    if script != "eval.py":
        out += [f"data.path={data / 'MMEB-train'}", f"data.max_rows_per_subset={ROWS}"]
    if script == "eval.py":
        out += [f"benchmark.mmeb.annotations={data / 'MMEB-eval'}", "bootstrap=20"]
    if script == "train.py":
        out += ["batch.pairs=32", "batch.workers=1", "trainer.max_steps=2", "optim.scheduler.num_warmup_steps=0"]
        out += ["callbacks.steps.every_n_steps=1", f"trainer.devices={min(2, devices)}"]
    return out


def write_data(folder: Path) -> None:
    """Write stand-ins for the public datasets, where the experiments expect them below `paths.data_dir`."""
    train, evaluation = compose_shipped("train", ["data=mmeb"]), compose_shipped("eval", ["benchmark=all"])
    benchmarks = evaluation.benchmark
    sugarcrepe = [subset for subsets in benchmarks.sugarcrepe.groups.values() for subset in subsets]
    write_mmeb_train(folder / "MMEB-train", train.data.subsets, ROWS)
    write_mmeb_eval(folder / "MMEB-eval", benchmarks.mmeb.groups, QUERIES, CANDIDATES)
    write_sugarcrepe(folder, sugarcrepe, benchmarks.sugarcrepe_pp.subset_names, QUERIES)


def run_script(script: str, arguments: list[str], log: Path) -> None:
    """Run `python SCRIPT ARGUMENTS` in this process, with its output in a file."""
    with log.open("w") as file:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())
    os.chdir(PACKAGE.parent)
    multiprocessing.set_start_method(None, force=True)  # as in a process that was not forked from a server
    sys.argv = [script, *arguments]
    runpy.run_path(str(PACKAGE.parent / script), run_name="__main__")


def rehearse(folder: Path) -> Table:
    """Check every experiment, then run it, and return a table of them; ends the program at a failure.

    Args:
        folder: A new folder, or that of an earlier rehearsal to which nothing was added. The output of each experiment
            goes to `<folder>/<name>.log`.

    Raises:
        UserError: For any other folder.
    """
    register_resolvers()
    check_folder(folder, by=WRITER)
    if folder.is_dir():
        remove_folder(folder, WRITER)
    try:
        return _rehearse(folder)
    finally:
        if folder.is_dir():
            record_folder(folder, WRITER)


def _rehearse(folder: Path) -> Table:
    write_data(folder / "data")
    arguments = {}
    for script, name in experiments():
        config, chosen = script.removesuffix(".py"), [f"experiment={name}"]
        devices = compose_shipped(config, chosen).trainer.devices
        arguments[name] = [*chosen, *overrides(script, folder, devices)]
        cfg = compose_shipped(config, arguments[name])
        cfg.output_dir = str(folder)  # Hydra's clock runs in a program only
        check(cfg, config, chosen)
    table = Table(title="rehearsed")
    for column in ("experiment", "left", "seconds"):
        table.add_column(column, justify="right" if column == "seconds" else "left")
    os.environ |= {"WANDB_MODE": "offline", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["gen2embed.training.callbacks", "gen2embed.runs.entry"])
    for script, name in experiments():
        started, log = time.perf_counter(), folder / f"{name}.log"
        process = processes.Process(target=run_script, args=(script, arguments[name], log))
        process.start()
        process.join()
        run = folder / "paper" / name.removeprefix("paper_")
        outputs = list(run.rglob(OUTPUTS[script]))
        if process.exitcode or not outputs:
            command = shlex.join(["python", script, *arguments[name]])
            raise SystemExit(f"error: {command} failed ({process.exitcode}):\n{log.read_text()}")
        table.add_row(f"{script} {name}", f"{len(outputs)} x {OUTPUTS[script]}", f"{time.perf_counter() - started:.0f}")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder.resolve()
    register_resolvers()
    print_table(memory_table())
    try:
        print_table(rehearse(folder))
    except UserError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
