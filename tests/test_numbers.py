"""What is not finite, is collapsed, at chance or changed on the disk: stopped with its rows, or said once."""

import json
import logging
import re
import shutil

import numpy as np
import pytest
import torch
from conftest import TINY, Fake, folders
from steps import LORA, attached, cached, load, make_module, varied_pairs

from gen2embed import Embedder, Item, UserError
from gen2embed.data.benchmark import Benchmark
from gen2embed.encoding.collapse import COLLAPSED, FEWEST, mean_cosine, warn_if_collapsed
from gen2embed.encoding.engine import Engine
from gen2embed.evaluation.evaluate import ENOUGH, evaluate
from gen2embed.evaluation.significance import is_below
from gen2embed.mining.mine import mine_pairs
from gen2embed.mining.saha import SaHaPaper
from gen2embed.model.adapter import save
from gen2embed.training.checkpoint import DIGEST, CheckpointFiles
from gen2embed.training.sync import OneRank
from gen2embed.types import Pair, RankingTask


@pytest.fixture
def said(caplog):
    """What was warned of so far."""
    return lambda: [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


# --- what is not finite ---------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_names_the_batch(world, monkeypatch):
    pairs = varied_pairs(world)
    module = make_module(attached(LORA))
    forward = type(module.loss).forward
    monkeypatch.setattr(type(module.loss), "forward", lambda *args: forward(*args) * torch.inf)
    rows = ", ".join(f"{pair.subset} row {pair.row}" for pair in pairs)
    message = f"the loss is inf at step 0: all embeddings are finite, of {rows}; look at these rows"
    with pytest.raises(UserError, match=re.escape(message)):
        cached(module, pairs)


def test_a_gradient_that_is_not_finite_names_the_batch(run_script, world, monkeypatch, tmp_path):
    step = OneRank.step

    def poisoned(self, optimizer, parameters, largest):
        parameters = list(parameters)
        if poisoned.steps == 1:
            parameters[0].grad.view(-1)[0] = torch.nan
        poisoned.steps += 1
        return step(self, optimizer, parameters, largest)

    poisoned.steps = 0
    monkeypatch.setattr(OneRank, "step", poisoned)
    outcome = run_script(
        "train.py", folders(world)[0], "trainer=cpu", "resolution=original", "data.rows=24", "data.subsets=[shape]",
        "mining=none", "batch.pairs=8", "trainer.max_steps=3", "benchmark=none", "output_dir=run",
    )  # fmt: skip
    assert outcome.code == 1
    text = " ".join(outcome.err.split())
    named = re.search(r"error: the gradient's norm is nan at step 1, of (.*); look at these rows", text)
    assert named, text
    assert len(re.findall(r"shape row \d+", named[1])) == 8
    assert not list((tmp_path / "run").rglob("*.ckpt"))


# --- collapsed, and at chance ---------------------------------------------------------------------------------------


def test_similarity_is_the_mean_of_all_pairs():
    vectors = np.random.default_rng(0).normal(size=(20, 5))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = vectors @ vectors.T
    assert mean_cosine(vectors.astype(np.float32)) == pytest.approx(cosines[~np.eye(20, dtype=bool)].mean(), abs=1e-6)


class Near(Fake):
    """Vectors around one direction, as far from it as `spread`."""

    fingerprint = {}  # noqa: RUF012

    def __init__(self, spread):
        self.spread = spread

    def embed(self, items, role):
        seeds = [np.random.default_rng([*f"{role}{item.texts}".encode()]) for item in items]
        vectors = np.stack([np.eye(16)[0] + self.spread * its.normal(size=16) for its in seeds])
        return torch.tensor(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=torch.float32)


def test_the_threshold():
    same, apart = np.tile(np.eye(4)[0], (FEWEST, 1)), np.eye(FEWEST)
    assert mean_cosine(same) > COLLAPSED
    assert warn_if_collapsed(same, "query")
    assert not warn_if_collapsed(same[1:], "query")  # too few to say
    assert not warn_if_collapsed(apart, "query")


def random_task(queries=2 * ENOUGH):
    items = [Item.create(f"text {number}") for number in range(queries)]
    candidates = [Item.create(f"answer {number}") for number in range(2 * queries)]
    choices = [[2 * number, 2 * number + 1] for number in range(queries)]
    return RankingTask("random", "x", items, candidates, choices, [[1.0, 0.0]] * queries)


def test_evaluation_says_it_once(said):
    benchmark, warned = Benchmark("x", (random_task(),), {"x": ["random"]}), set()
    for _ in range(2):  # as validation does
        evaluate(Near(1e-3), Engine(), benchmark, 200, warned=warned)
    query, candidate, chance = said()
    assert "the 40 items as query are nearly all the same (mean cosine 1.0000, above 0.99)" in query
    assert "the 80 items as candidate are nearly all the same" in candidate
    assert chance.startswith("no task is above chance: check that the weights")
    assert warned == {"query", "candidate", "chance"}


class Misled(Fake):
    """Vectors that have each query beside its wrong answer."""

    fingerprint = {}  # noqa: RUF012

    def embed(self, items, role):
        numbers = [int(item.texts[0].split()[1]) for item in items]
        axes = [n if role == "query" else n // 2 if n % 2 else -1 for n in numbers]
        return torch.eye(2 * ENOUGH + 1)[axes]


def test_below_chance_is_not_at_chance(said):
    """A model that prefers what is made to mislead is no sign of wrong weights; nothing right of many choices is."""
    warned = set()
    evaluate(Misled(), Engine(), Benchmark("x", (random_task(),), {"x": ["random"]}), 200, warned=warned)
    (warning,) = said()
    assert warning.startswith("below chance (random)")
    assert "weights" not in warning
    assert warned == {"below chance"}
    assert is_below(0, 20, 0.5)
    assert not is_below(0, 1000, 1 / 1000)  # whose bootstrap interval is [0, 0]
    assert not is_below(6, 20, 0.5)
    assert is_below(5, 20, 0.5)


def test_few_queries_at_chance_say_nothing(said):
    evaluate(Near(5.0), Engine(), Benchmark("x", (random_task(ENOUGH - 1),), {"x": ["random"]}), 200)
    assert said() == []


@pytest.mark.parametrize(("spread", "sides"), [(1e-3, ["query", "candidate"]), (5.0, [])])
def test_mining_says_it(said, spread, sides):
    pairs = [Pair(Item.create(f"q {row}"), Item.create(f"a {row}"), "s", row) for row in range(20)]
    mine_pairs(Near(spread), Engine(), pairs, SaHaPaper(top_k=3), ())
    assert [re.search(r"items as (\w+) are nearly", message)[1] for message in said()] == sides


# --- changed on the disk --------------------------------------------------------------------------------------------


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapter") / "its"
    embedder = attached(LORA, torch.float32)
    save(embedder, folder)
    return folder


def test_an_adapter_that_was_changed_is_refused(adapter, tmp_path):
    folder = shutil.copytree(adapter, tmp_path / "its")
    load(TINY, adapter=folder)
    flip(folder / "adapter_model.safetensors", -1)  # a weight, as every other one finite
    with pytest.raises(UserError, match=r"adapter_model.safetensors are not those that were saved: their SHA-256 is"):
        load(TINY, adapter=folder)
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(UserError, match=r"lists adapter_model.safetensors, which is missing"):
        load(TINY, adapter=folder)


def test_an_adapter_without_a_digest_is_loaded(adapter, tmp_path):
    folder = shutil.copytree(adapter, tmp_path / "its")
    card = json.loads((folder / "gen2embed.json").read_text())
    del card["sha256"]
    (folder / "gen2embed.json").write_text(json.dumps(card))
    flip(folder / "adapter_model.safetensors", -1)
    load(TINY, adapter=folder)


def test_a_whole_model_that_was_changed_is_refused(tmp_path):
    embedder = load(TINY)
    embedder.save_pretrained(tmp_path / "whole")
    Embedder.from_pretrained(tmp_path / "whole", device="cpu")
    flip(tmp_path / "whole/model.safetensors", -1)
    with pytest.raises(UserError, match=r"model.safetensors are not those that were saved"):
        Embedder.from_pretrained(tmp_path / "whole", device="cpu")


@pytest.mark.parametrize("place", [0, 100, -DIGEST - 1, -1])
def test_a_training_checkpoint_that_was_changed_is_refused(tmp_path, place):
    path = tmp_path / "step=000001.ckpt"
    CheckpointFiles().save_checkpoint({"weights": torch.arange(1000.0)}, path)
    assert torch.equal(CheckpointFiles().load_checkpoint(path)["weights"], torch.arange(1000.0))
    flip(path, place)
    with pytest.raises(UserError, match="cannot be read: its SHA-256 is not that of what was saved"):
        CheckpointFiles().load_checkpoint(path)
