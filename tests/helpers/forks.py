"""Imports everything once, and forks what is run: the commands of `interpreter.py`, and runs, whose answer is the exit
code of each rank, negative for a signal.

A run has a `script`, or a `function`: [module, name]; `args`, `folder` to run in, `ranks`, and `log`, where each leaves
what it prints. Several ranks find the variables that torchrun sets; a single one starts the others itself, if its
strategy has more. A run may have

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

In what is forked, `interpreter.py` stands in for Python: the processes that Lightning, joblib and submitit start are
forked here, too.
"""

import contextlib
import ctypes
import gc
import importlib
import json
import math
import os
import runpy
import select
import signal
import socket
import sys
import threading
import time
from functools import partial
from pathlib import Path

import psutil
from commands import attend, end, renew, skip_mode
from faults import armed
from interpreter import receive, send

from gen2embed import Embedder
from gen2embed.config.presets import PACKAGE, compose_shipped
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


def start(run, rank, port, executable):
    """Fork a rank; returns its process id."""
    pid = os.fork()
    if not pid:
        signal.alarm(run.get("limit", LIMIT))
        end(partial(become, run, rank, port, executable))
    return pid


def become(run, rank, port, executable):
    """Run as a rank, in its own process."""
    renew(executable)
    skip_mode(run["args"], setattr)
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
    if watched := run.get("watch", {}).get(str(rank)):
        armed.watch(**watched)
    if run.get("mistake"):
        MISTAKES[run["mistake"]]()
    work(run)


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
    with os.fdopen(read) as imported:
        for name in json.load(imported):
            with contextlib.suppress(ImportError):  # some modules make others up
                importlib.import_module(name)
    os.wait()


def carry_out(run, executable):
    """Start the ranks of a run; returns the exit code of each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pids = [start(run, rank, port, executable) for rank in range(run["ranks"])]
    if run.get("moment"):
        signal_at(pids, *run["moment"])
    return wait(pids, run.get("patience", LIMIT))


def reap(*_):
    """Wait for the forks that ended."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def serve(listening, until, executable):
    """Answer all who connect, each in a fork, until there is something to read at `until`."""
    import_what_a_model_needs()
    for entry in ENTRIES:
        compose_shipped(entry)  # which a run asks for, too, and which is kept
    assert threading.active_count() == 1  # a fork would have the locks of the others, and nobody to release them
    gc.collect()
    gc.freeze()  # what is imported: a collection in a fork need not go through it, nor copy its pages
    signal.signal(signal.SIGCHLD, reap)
    while until not in select.select([listening, until], [], [])[0]:
        connection, _ = listening.accept()
        if not os.fork():
            listening.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            message, descriptors = receive(connection)
            if "ranks" in message:
                send(connection, carry_out(message, executable))
            else:
                attend(connection, message, descriptors, executable)
            os._exit(0)
        connection.close()
