"""Fixtures: the golden data, the shipped checkpoint, random checkpoints of real classes, a small world, and the CLI."""

from __future__ import annotations

import json
import logging
import os
import runpy
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the models are small: more threads only wait for each other

import hypothesis
import interpreter
import numpy as np
import pytest
import torch
from commands import skip_mode
from hydra.core.global_hydra import GlobalHydra
from PIL import Image

from gen2embed import Embedder
from gen2embed.config.presets import PACKAGE, conf_dir
from gen2embed.encoding.batch import Chunk, Prepared
from gen2embed.world.data import World

hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

TESTS = Path(__file__).parent
REPOSITORY = TESTS.parent


SERVER = "GEN2EMBED_TESTS_SERVER"  # the variable with the address of the process that forks runs


def pytest_configure(config: pytest.Config) -> None:
    """Keep digests of files for this session only, and not in the user's cache; start one server for all workers."""
    folder = Path(tempfile.mkdtemp(prefix="gen2embed-tests-"))
    config.add_cleanup(lambda: shutil.rmtree(folder))
    os.environ["GEN2EMBED_CACHE"] = str(folder)
    if not hasattr(config, "workerinput"):
        config.add_cleanup(start_server(folder))


LONG = (  # modules that take most, in the order in which they start
    "tests/training/test_distributed.py", "tests/faults/", "tests/training/test_training.py",
    "tests/training/test_resume.py", "tests/runs/test_sweeps.py", "tests/data/test_benchmarks.py",
    "tests/training/test_gradcache.py", "tests/test_hub.py", "tests/search/test_neighbours.py",
    "tests/evaluation/test_evaluate.py", "tests/training/test_true_width.py", "tests/examples/",
)  # fmt: skip
SPREAD = ("tests/test_docs.py", "tests/config/test_config.py")  # whose tests any worker may run, and which come last


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have one worker run a module, whose fixtures it then makes once, and start with the modules that take long."""
    for item in items:
        module = item.nodeid.partition("::")[0]
        if item.get_closest_marker("xdist_group") is None and module not in SPREAD:
            item.add_marker(pytest.mark.xdist_group(module))
    order = {start: place for place, start in enumerate((*LONG, "", *SPREAD))}
    items.sort(key=lambda item: order[max((start for start in order if item.nodeid.startswith(start)), key=len)])


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """Undo what a test does to loggers: Hydra gives the root other handlers, in place of those of pytest, too."""
    known = [logging.root, *(it for it in logging.root.manager.loggerDict.values() if isinstance(it, logging.Logger))]
    before = {logger: (logger.level, logger.disabled, logger.propagate, list(logger.handlers)) for logger in known}
    yield
    for logger, (level, disabled, propagate, handlers) in before.items():
        logger.setLevel(level)
        logger.disabled, logger.propagate, logger.handlers[:] = disabled, propagate, handlers


def start_server(folder: Path) -> Callable[[], None]:
    """Start the process of `tests/helpers/server.py`, which imports nothing before it is used; returns what ends it."""
    helpers = TESTS / "helpers"
    address, executable = folder / "server", folder / "python"
    executable.write_text(f'#!/bin/sh\nexec "{sys.executable}" -IS "{helpers}/interpreter.py" "{address}" "$@"\n')
    executable.chmod(0o755)
    os.environ[SERVER] = str(address)
    environment = {
        **os.environ,
        "PYTHONPATH": ":".join(map(str, (REPOSITORY, TESTS, helpers, TESTS / "training"))),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, str(helpers / "server.py"), str(address), str(executable)]
    program = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert program.stdout.readline() == "ready\n"

    def stop() -> None:
        program.stdin.close()
        assert program.wait(60) == 0

    return stop


GOLDEN = Path(__file__).parent / "golden"
TINY = PACKAGE / "tiny" / "checkpoint"
EXPERIMENTS = {  # which script runs them, as the command in their second line says
    file.stem: file.read_text().splitlines()[1].split()[2].removesuffix(".py")
    for file in (conf_dir() / "experiment").glob("*.yaml")
}
SIZE = {"rows": 24, "queries": 8}  # of the small world


@pytest.fixture(scope="session")
def golden() -> dict:
    """Rows as API inputs with their roles, and the reference's token ids and embeddings by prompt."""
    raw = json.loads((GOLDEN / "inputs.json").read_text())
    vectors = np.load(GOLDEN / "embeddings.npz")
    role = {"Q": "query", "D": "candidate"}
    return {
        "rows": [
            ({"text": row["text"], "image": str(GOLDEN / row["image"]) if row["image"] else None}, role[row["role"]])
            for row in raw["rows"]
        ],
        "ids": {"hierarchical": raw["hier_ids"], "none": raw["none_ids"]},
        "vectors": {"hierarchical": torch.tensor(vectors["hier"]), "none": torch.tensor(vectors["none"])},
        "adapted": {
            "hierarchical": torch.tensor(vectors["hier_adapter"]),
            "none": torch.tensor(vectors["none_adapter"]),
        },
        "system": raw["system"],
    }


@pytest.fixture(scope="session")
def tiny() -> Embedder:
    return Embedder.from_pretrained(TINY, resolution="original", device="cpu")


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"), **SIZE)


def noise(seed: int, size: tuple[int, int] = (84, 84)) -> Image.Image:
    """A picture of random pixels."""
    pixels = np.random.default_rng(seed).integers(256, size=(size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


INPUTS = [  # of every kind and of different lengths
    "a dog",
    {"text": "a large striped red circle on white, and a much longer text than the others have"},
    {"image": noise(1)},
    {"image": noise(2), "text": "what colour is it?"},
    {"image": noise(3, (30, 100))},
    "<|image_1|>\nno picture",
    {"text": "<|image_1|>\nno picture", "image": noise(1)},
]


def folders(world: World) -> list[str]:
    """Overrides that take training rows and tasks from the small world."""
    return [f"data.folder={world.folder}", f"benchmark.folder={world.folder}"]


class Fake:
    """What the engine needs of an embedder, for one that embeds items by `embed(items, role)`, a token each."""

    budget = 32

    def prepare(self, items, limit):
        parts = [items[start : start + limit.tokens] for start in range(0, len(items), limit.tokens)]
        chunks = [Chunk({"items": part}, len(part), pictured=False) for part in parts]
        return Prepared(chunks, torch.arange(len(items)), {})

    def embed_chunk(self, chunk, pictures):
        items = chunk.inputs["items"]
        return self.embed([item for item, _ in items], items[0][1])


@dataclass
class Outcome:
    code: int
    out: str
    err: str


@pytest.fixture
def run_script(capfd, monkeypatch, tmp_path):
    """Run an entry script in this process as `python SCRIPT ARGS` would, in an empty working directory."""

    def run(script: str, *args: str, cwd: Path = tmp_path) -> Outcome:
        monkeypatch.chdir(cwd)
        monkeypatch.setattr(sys, "argv", [script, *args])
        skip_mode(args, monkeypatch.setattr)
        GlobalHydra.instance().clear()
        capfd.readouterr()
        code = 0
        try:
            runpy.run_path(str(REPOSITORY / script), run_name="__main__")
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
            if isinstance(stop.code, str):
                print(stop.code, file=sys.stderr)
        return Outcome(code or 0, *capfd.readouterr())

    return run


@pytest.fixture(scope="session")
def forked():
    """Run an entry point, or a function of a test's module, in forks of the session's server.

    Returns the exit code of each rank; what it prints is in `<log>.<rank>`. See `forks.py`.
    """

    def run(log: Path, *args: str, folder: Path, ranks: int = 1, **more) -> list[int]:
        with socket.socket(socket.AF_UNIX) as server:
            server.connect(os.environ[SERVER])
            run = {"log": str(log), "args": args, "folder": str(folder), "ranks": ranks, **more}
            interpreter.send(server, run)
            return interpreter.receive(server)[0]

    return run


@pytest.fixture(scope="session")
def python() -> str:
    """A program to run in place of Python, which need not import the libraries; see `interpreter.py`."""
    return str(Path(os.environ[SERVER]).with_name("python"))
