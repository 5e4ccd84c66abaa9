"""Fixtures: the golden data, the shipped checkpoint, random checkpoints of real classes, a small world, and the CLI."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the models are small: more threads only wait for each other

import hypothesis
import numpy as np
import pytest
import torch
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


def pytest_configure(config: pytest.Config) -> None:
    """Keep digests of files for this session only, and not in the user's cache."""
    folder = tempfile.TemporaryDirectory(prefix="gen2embed-tests-")
    os.environ["GEN2EMBED_CACHE"] = folder.name
    config.add_cleanup(folder.cleanup)


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
    """Run an entry point, or a function of a test's module, in forks of one process, which has imported everything.

    Returns the exit code of each rank; what it prints is in `<log>.<rank>`. See `forks.py`.
    """
    environment = {
        **os.environ,
        "PYTHONPATH": ":".join(map(str, (REPOSITORY, TESTS, TESTS / "helpers", TESTS / "training"))),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, str(REPOSITORY / "tests/helpers/forks.py")]
    program = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert json.loads(program.stdout.readline()) == "ready"

    def run(log: Path, *args: str, folder: Path, ranks: int = 1, **told) -> list[int]:
        job = {"log": str(log), "args": args, "folder": str(folder), "ranks": ranks, **told}
        program.stdin.write(json.dumps(job) + "\n")
        program.stdin.flush()
        return json.loads(program.stdout.readline())

    yield run
    program.stdin.close()
    assert program.wait(60) == 0
