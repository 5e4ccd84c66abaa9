"""Kill runs of mine, train and eval at random moments, start them again, and compare them with a run nobody killed.

A chain is a run in an empty folder that is killed, started again by the same command and killed again, until it ends.
A kill is at a random moment, from outside, or aimed: in the middle of a random change of a file (`armed.py`), first
among their kinds, so that small files are met as often as large ones. After every kill, each file that has its own name
must be whole; after a chain, all files must have the bits of those of the whole run.
"""

import collections
import json
import random
import re
import shutil
import signal
import time
from dataclasses import dataclass

import numpy as np
import pyarrow.parquet as pq
import torch
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import load_file

from faults.armed import LOGS
from gen2embed.outputs.record import RECORD
from gen2embed.utils.preemption import EXIT_CODE

MOST = 4  # kills in a chain
AIMED = 0.7  # share of the kills that are to be in a change of a file; some find none
LIMIT = 100  # seconds that a start may take
PATIENCE = 2  # seconds that a rank has to end where another one was killed, before it is
MODEL = ["trainer=cpu", "output_dir=run"]
MINE = ["data.rows=8", "data.subsets=[shape,t2i]", "mining.top_k=2", "engine.shard_size=4", "engine.batch_tokens=400",
        "search.shard_size=3"]  # fmt: skip
TRAIN = [
    "data.rows=6", "data.subsets=[shape,t2i]", "mining=random", "mining.top_k=1", "batch.pairs=4", "batch.chunk=3",
    "adapter.target_modules=[q_proj,v_proj]", "optim.scheduler.num_warmup_steps=2", "trainer.max_steps=8",
    "trainer.log_every_n_steps=3", "~callbacks.progress", "~callbacks.speed", "callbacks.checkpoints.every_n_steps=2",
    "benchmark.queries=4", "benchmark.subsets=[shape]", "bootstrap=20", "report_queries=2", "engine.shard_size=4",
]  # fmt: skip
EVAL = ["benchmark.queries=4", "benchmark.subsets=[shape,vqa_count,t2i]", "bootstrap=20", "report_queries=2",
        "engine.shard_size=4", "engine.batch_tokens=400"]  # fmt: skip
WORLDS = ["data.folder={world}", "benchmark.folder={world}"]
TWO = ["strategy=ddp", "trainer.devices=2", "trainer.strategy.timeout_seconds=60"]


@dataclass(frozen=True)
class Stage:
    """A command. varied: what a chain adds to it, one of them."""

    script: str
    args: list[str]
    ranks: int = 1
    varied: tuple[str, ...] = ("seed=0",)


WORKERS = ("batch.workers=0", "batch.workers=2")
STAGES = {
    "mine": Stage("mine.py", [*MODEL, *MINE, "data.folder={world}"]),
    "train": Stage("train.py", [*MODEL, *TRAIN, *WORLDS], varied=WORKERS),
    "train on two": Stage("train.py", [*MODEL, *TRAIN, *WORLDS, *TWO], ranks=2, varied=WORKERS),
    "train on two, launched": Stage("train.py", [*MODEL, *TRAIN, *WORLDS, *TWO]),  # Lightning starts the second
    "eval": Stage("eval.py", [*MODEL, *EVAL, "benchmark.folder={world}"]),
}
ENDS = {signal.SIGKILL: {-signal.SIGKILL}, signal.SIGTERM: {EXIT_CODE, -signal.SIGTERM}}  # before it listens
TALLY = collections.Counter()  # kills, restarts, differences, of all stages


class Harness:
    """Chains of one stage, in `folder`; the world lies in `world`. by: the signal that ends a run.

    found: what was different, or broken, a line each. met: how often a run ended where. longest: seconds from a signal
    from outside to the end.
    """

    def __init__(self, forked, folder, world, stage, by=signal.SIGKILL, seed=0):
        self.forked, self.folder, self.world, self.name, self.by = forked, folder, world, stage, by
        self.stage, self.draw = STAGES[stage], random.Random(f"{seed} {stage}")
        self.now, self.listed, self.wholes = folder / "now", folder / "listed", {}
        self.found, self.met, self.seconds, self.longest = [], collections.Counter(), 0.0, 0.0

    @property
    def kills(self):
        return self.met.total()

    def whole(self, more):
        """The folder of a run that nobody killed."""
        if more not in self.wholes:
            self.empty()
            started = time.monotonic()
            codes = self.start(more, watch={"0": self.watched()})
            assert not any(codes), self.said()
            self.seconds = time.monotonic() - started
            self.changes = collections.Counter(self.listed.read_text().splitlines())
            self.wholes[more] = self.now.rename(self.folder / f"whole {more}")
            assert not list(half_files(self.wholes[more]))
        return self.wholes[more]

    def start(self, more, **told):
        """Give the command; returns the exit codes of the ranks."""
        for path in (self.listed, *self.folder.glob("said.*")):
            path.unlink(missing_ok=True)
        args = [arg.format(world=self.world) for arg in self.stage.args]
        return self.forked(self.folder / "said", *args, more, script=self.stage.script, folder=self.now,
                           ranks=self.stage.ranks, limit=LIMIT, patience=PATIENCE, **told)  # fmt: skip

    def said(self):
        return "".join(path.read_text() for path in sorted(self.folder.glob("said.*")))

    def watched(self, **aim):
        return {"root": str(self.now), "listed": str(self.listed), **aim}

    def place(self):
        """Where a kill is to be: at random, a change of a file, or nothing for a moment."""
        if self.draw.random() > AIMED:
            return None
        kind = self.draw.choice(sorted(kind for kind in self.changes if not kind.startswith("mkdir")))
        return kind, 1 + int(self.changes[kind] * self.draw.random() ** 2), self.draw.random() < 0.5

    def kill(self, more, place):
        """Start the command, and kill it there, or at a moment; returns whether it did not end before."""
        started, seconds = time.monotonic(), self.draw.uniform(0, self.seconds)
        if place:
            kind, nth, after = place
            act = "kill" if self.by == signal.SIGKILL else "stop"
            told = {"watch": {"0": self.watched(kind=kind, nth=nth, after=after, act=act)}}
        else:
            ranks = self.draw.choice([[0], [self.stage.ranks - 1], [*range(self.stage.ranks)]])
            told = {"moment": [seconds, ranks, self.by]}
        codes, where = self.start(more, **told), place[0] if place else "a moment"
        if -signal.SIGALRM in codes:
            self.found.append(f"{self.name}: a rank waited for {LIMIT} seconds; {codes}, ended at {where}")
        if not ENDS[self.by] & set(codes):
            if any(codes):
                self.found.append(f"{self.name}: exit codes {codes}, and nobody was ended: {self.said()}")
            return False
        if not place:
            self.longest = max(self.longest, time.monotonic() - started - seconds)
        self.met[where] += 1
        self.found += [f"{self.name}, ended at {where}: {half}" for half in half_files(self.now)]
        if self.by == signal.SIGTERM:
            self.found += [f"{self.name}, ended at {where}: {path} is left" for path in unfinished(self.now)]
        return True

    def chain(self, places):
        """Kill a run at these places, one after the other, unless it ends before; compare what it comes to."""
        more = self.draw.choice(self.stage.varied)
        self.begin(more)
        if all(self.kill(more, place or self.place()) for place in places):
            self.go_on(more)
        self.compare(more)

    def begin(self, more):
        """Have an empty folder, and a whole run."""
        self.whole(more)
        self.empty()

    def empty(self):
        shutil.rmtree(self.now, ignore_errors=True)
        self.now.mkdir()

    def go_on(self, more):
        """Give the command, which ends this time."""
        codes = self.start(more)
        if any(codes):
            self.found.append(f"{self.name}: exit codes {codes} in the end: {self.said()}")

    def compare(self, more):
        """Compare the run with a whole one."""
        differing = list(different(self.whole(more), self.now))
        if self.by == signal.SIGTERM:  # whose checkpoints are among the newest two
            differing = [name for name in differing if not re.search(r"step=00000[1-7]", name)]
        if differing:
            self.found += [f"{self.name}: {name} differs" for name in differing]
            shutil.copytree(self.now, self.folder / f"found {len(self.found)}")

    def run(self, kills):
        """Chains until there were so many kills; says what was met, and returns what was found."""
        started = time.monotonic()
        while self.kills < kills:
            self.chain([None] * self.draw.randint(1, min(MOST, kills - self.kills)))
        if self.by == signal.SIGKILL:
            TALLY.update(kills=self.kills, restarts=self.kills, differences=len(self.found))
        aimed, seconds = self.kills - self.met["a moment"], round(time.monotonic() - started)
        print(f"\n{self.name}: {self.kills} times {self.by.name}, {aimed} of them in a change of a file; {seconds} s")
        print(f"  from a signal from outside to the end at most {self.longest:.1f} s")
        for place, count in sorted(self.met.items()):
            print(f"  {count:3d}  {place}")
        print("\n".join(self.found))
        return self.found


# --- comparing ------------------------------------------------------------------------------------------------------

VOLATILE = {"date", "git_commit", "wall_seconds", "items_computed", "items_reused", "items_per_second"}  # of a manifest
STATE = ("state_dict", "optimizer_states", "lr_schedulers", "loops", "global_step", "PairDataModule")


def visible(folder):
    """Files that have their own names, by their path below `folder`."""
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {name: path for name, path in files.items() if not re.search(r"(^|/)\.", name) and not LOGS.search(name)}


def unfinished(folder):
    """Files and folders that a write has not ended in."""
    return [path for path in folder.rglob(".*") if not LOGS.search(str(path)) and path.name != RECORD]


def different(whole, now):
    """Names of the files that are not the same in two folders."""
    there, here = visible(whole), visible(now)
    for name in sorted(there | here):
        if name not in there or name not in here or not same(content(there[name]), content(here[name])):
            yield name


def content(path):
    if path.suffix == ".json":
        return without_volatile(json.loads(path.read_text()))
    if path.suffix == ".ckpt":
        held = torch.load(path, weights_only=True)
        return {part: held[part] for part in STATE}
    if path.suffix == ".html":
        return re.sub(
            r"\d{4}-\d\d-\d\d \d\d:\d\d UTC|<p>\d+ s</p>|(commit|date)(&nbsp;<b>|</th><td>)[^\n]*", "", path.read_text()
        )
    return path.read_bytes()


def without_volatile(value):
    if isinstance(value, dict):
        return {key: without_volatile(its) for key, its in value.items() if key not in VOLATILE}
    return value


def same(a, b):
    """The same values to the bit, in nested dicts, lists and tensors."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


READERS = {
    ".json": lambda path: json.loads(path.read_text()),
    ".npy": lambda path: np.load(path, allow_pickle=False),
    ".parquet": pq.read_table,
    ".ckpt": lambda path: torch.load(path, weights_only=True),
    ".safetensors": load_file,
    ".png": lambda path: Image.open(path).load(),
    ".yaml": OmegaConf.load,
    ".html": lambda path: path.read_text().rstrip().endswith("</html>") or 1 / 0,
}


def half_files(folder):
    """What is wrong with files that look whole."""
    for name, path in visible(folder).items():
        if path.name == "hparams.yaml":  # Lightning's, which nobody reads
            continue
        try:
            READERS.get(path.suffix, lambda _: None)(path)
        except Exception as error:  # readers raise of many kinds
            yield f"{name} is not whole: {error!r}"
    for adapter in folder.rglob("adapter_config.json"):
        if not adapter.with_name("adapter_model.safetensors").exists() and not re.search(r"/\.", str(adapter)):
            yield f"{adapter} is without its weights"
