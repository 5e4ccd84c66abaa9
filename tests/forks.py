"""Run as a program: imports everything once, and forks a process for each rank of a run that it reads of.

A line of its input is a run in JSON, and its answer the exit code of each rank, negative for a signal. A run has a
`script`, or a `function`: [module, name]; `args`, `folder` to run in, `ranks`, and `log`, where each leaves what it
prints. It may have `environment`, `kill`: [where, step, rank], or `mistake`. Several ranks find the variables that
torchrun sets; a single one starts the others itself, if its strategy has more.
"""

import importlib
import json
import os
import runpy
import signal
import socket
import sys
import traceback
from pathlib import Path

import torch

import mine
import train
from gen2embed import Embedder, checkpoint, sync
from gen2embed.checkpoint import Checkpoints
from gen2embed.data import clusters
from gen2embed.data.datamodules import PairDataModule
from gen2embed.encoder import store
from gen2embed.lit import ContrastiveModule
from gen2embed.miners import neighbours
from gen2embed.presets import PACKAGE

LIMIT = 900  # seconds, after which a rank that hangs ends


def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)


def after(target, name, condition):
    """Die after a method ran, under a condition on its arguments."""
    plain = getattr(target, name)

    def wrapped(*args, **kwargs):
        result = plain(*args, **kwargs)
        if condition(*args):
            die()
        return result

    setattr(target, name, wrapped)


def die_writing(module, count):
    """Die in the middle of the so many-th file that a module writes."""
    plain, paths = module.write_atomic, []

    def write_atomic(path, write):
        def half(file):
            write(file)
            file.flush()
            if len(paths) == count:
                die()

        paths.append(path)
        plain(path, half)

    module.write_atomic = write_atomic


WRITERS = {"encoding": store, "search": neighbours, "writing": clusters}  # the stages of mining


def prepare_to_die(where, step):
    """In the middle of a step, so many being done; or at the end of the step; or while its checkpoint is written.

    In mining, in the middle of a stage's file, so many being written.
    """
    if where in WRITERS:
        die_writing(WRITERS[where], step + 1)
    elif where == "step":
        after(ContrastiveModule, "accumulate", lambda module, _: module.global_step == step)
    elif where == "end":  # before Lightning logs the step
        after(Checkpoints, "on_train_batch_end", lambda _, trainer, *__: trainer.global_step == step)
    elif where == "evaluation":
        train.evaluate_and_report = die
    else:
        plain = Checkpoints.save

        def save(self, trainer, name):
            if trainer.global_step == step:
                in_the_checkpoint(where)
            return plain(self, trainer, name)

        Checkpoints.save = save


def in_the_checkpoint(where):
    plain = torch.save

    def save_half(content, file):
        plain(content, file)
        file.flush()
        os.ftruncate(file.fileno(), file.tell() // 2)
        die()

    if where == "bytes":
        torch.save = save_half
    elif where == "rename":
        checkpoint.put_in_place = die
    elif where == "removal":
        checkpoint.remove = die


MISTAKES = {
    "the batches start over": lambda: setattr(PairDataModule, "load_state_dict", lambda *_: None),
    "a step does not seed": lambda: setattr(sync, "_seed", lambda *_: None),
    "a step is trained": lambda: setattr(ContrastiveModule, "training_step", die),
}


ENTRIES = {"mine": mine, "train": train}


def start(run, rank, port):
    """Fork a rank; returns its process id."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    signal.alarm(LIMIT)
    try:
        os.chdir(run["folder"])
        os.environ |= run.get("environment", {})
        with Path(f"{run['log']}.{rank}").open("a") as log:
            for stream in (1, 2):
                os.dup2(log.fileno(), stream)
        if run["ranks"] > 1:  # as torchrun does
            os.environ |= {"TORCHELASTIC_RUN_ID": "none", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(run["ranks"])}
        if run.get("kill") and run["kill"][2] == rank:
            prepare_to_die(*run["kill"][:2])
        if run.get("mistake"):
            MISTAKES[run["mistake"]]()
        work(run)
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
        print(stop.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def work(run):
    if "function" in run:
        module, name = run["function"]
        getattr(importlib.import_module(module), name)(*run["args"])
        return
    script = PACKAGE.parent / run["script"]
    sys.argv = [str(script), *run["args"]]
    if script.stem in ENTRIES:
        ENTRIES[script.stem].main()
    else:
        runpy.run_path(str(script), run_name="__main__")


def main():
    Embedder.from_pretrained(PACKAGE / "tiny" / "checkpoint", device="cpu")  # imports the model's own modules
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        run = json.loads(line)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        pids = [start(run, rank, port) for rank in range(run["ranks"])]
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        print(json.dumps(codes), flush=True)


if __name__ == "__main__":
    main()
