"""Run as a program: imports everything once, and forks a process for each rank of a run that it reads of.

A line of its input is a run in JSON, and its answer the exit code of each rank, negative for a signal. A run has a
`script`, or a `function`: [module, name]; `args`, `folder` to run in, `ranks`, and `log`, where each leaves what it
prints. Several ranks find the variables that torchrun sets; a single one starts the others itself, if its strategy has
more. A run may have

    environment   variables
    kill          [step, rank]: dies in the middle of a step, so many being done
    stop          [step, rank]: is sent SIGTERM there, and so are its loaders' workers
    moment        [seconds, ranks, signal], from outside
    vanish        [step, rank, folder]: the folder is away from there on
    permissions   whether they count for root, too
    watch         what `faults.armed.watch` takes, by rank
    patience      seconds after which SIGABRT ends the ranks that one that failed has left, as torchrun ends them
    limit         seconds after which a rank ends by SIGALRM
    mistake       of `MISTAKES`
"""

import contextlib
import ctypes
import importlib
import json
import math
import os
import runpy
import signal
import socket
import sys
import threading
import time
import traceback
from functools import partial
from pathlib import Path

import psutil
import torch
from faults import armed

from gen2embed import Embedder
from gen2embed.config.presets import PACKAGE
from gen2embed.training import sync
from gen2embed.training.datamodule import PairDataModule
from gen2embed.training.module import ContrastiveModule

LIMIT = 900  # seconds, after which a rank that hangs ends


def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)


def terminate():
    """As Slurm does, which signals all processes of a job."""
    for process in (*psutil.Process().children(), psutil.Process()):
        process.send_signal(signal.SIGTERM)


def take_away(folder):
    Path(folder).rename(f"{folder}.away")


def heed_permissions():
    """Give up what lets root read and write whatever it likes: CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH."""
    system, header, held = ctypes.CDLL(None), (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert system.capget(header, held) == 0
    held[0] &= ~0b110
    assert system.capset(header, held) == 0


def in_the_middle(step, act):
    """Of a step, so many being done, do something."""
    plain = ContrastiveModule.accumulate

    def accumulate(module, batch):
        result = plain(module, batch)
        if module.global_step == step:
            act()
        return result

    ContrastiveModule.accumulate = accumulate


MISTAKES = {
    "the batches start over": lambda: setattr(PairDataModule, "load_state_dict", lambda *_: None),
    "a step does not seed": lambda: setattr(sync, "_seed", lambda *_: None),
    "a step is trained": lambda: setattr(ContrastiveModule, "training_step", die),
}


ENTRIES = {name: importlib.import_module(name) for name in ("mine", "train", "eval")}


def start(run, rank, port):
    """Fork a rank; returns its process id."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    signal.alarm(run.get("limit", LIMIT))
    try:
        torch.set_num_threads(1)  # renews the pool of threads, which a fork breaks and other threads race for
        os.chdir(run["folder"])
        os.environ |= run.get("environment", {})
        with Path(f"{run['log']}.{rank}").open("a") as log:
            for stream in (1, 2):
                os.dup2(log.fileno(), stream)
        if run["ranks"] > 1:  # as torchrun does
            os.environ |= {"TORCHELASTIC_RUN_ID": "none", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(run["ranks"])}
        for name, act in (("kill", die), ("stop", terminate), ("vanish", take_away)):
            step, where, *more = run.get(name, [0, None])
            if where == rank:
                in_the_middle(step, partial(act, *more))
        if run.get("permissions"):
            heed_permissions()
        if its := run.get("watch", {}).get(str(rank)):
            armed.watch(**its)
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


def signal_at(pids, seconds, ranks, number):
    """Send a signal to some ranks, at a moment, unless they ended before; they are not waited for."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        time.sleep(0.002)
    for rank in ranks:
        os.kill(pids[rank], number)  # one that ended is a zombie until it is waited for


def wait(pids, patience):
    """The exit code of each."""
    codes, until = {}, math.inf
    while left := [pid for pid in pids if pid not in codes]:
        if time.monotonic() > until:
            for pid in left:
                os.kill(pid, signal.SIGABRT)
        for pid in left:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                codes[pid] = os.waitstatus_to_exitcode(status)
                until = min(until, time.monotonic() + patience) if codes[pid] else until
        time.sleep(0.002)
    return [codes[pid] for pid in pids]


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


def import_what_a_model_needs():
    """The modules that loading a model imports; it is loaded in a fork, since it starts threads."""
    read, write = os.pipe()
    if not os.fork():
        before = set(sys.modules)
        Embedder.from_pretrained(PACKAGE / "tiny" / "checkpoint", device="cpu")
        os.write(write, json.dumps(sorted(set(sys.modules) - before)).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as told:
        for name in json.load(told):
            with contextlib.suppress(ImportError):  # some modules make others up
                importlib.import_module(name)
    os.wait()


def main():
    import_what_a_model_needs()
    assert threading.active_count() == 1  # a fork would have the locks of the others, and nobody to release them
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        run = json.loads(line)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        pids = [start(run, rank, port) for rank in range(run["ranks"])]
        if run.get("moment"):
            signal_at(pids, *run["moment"])
        codes = wait(pids, run.get("patience", LIMIT))
        print(json.dumps(codes), flush=True)


if __name__ == "__main__":
    main()
