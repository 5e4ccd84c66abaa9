"""The paper's experiments: each has its command, target and expected score, and only what must be is replaced in a
rehearsal. `make reproduce-dry` runs it."""

import multiprocessing
import re
import subprocess
import sys
from dataclasses import replace
from unittest import mock

import pytest
from conftest import REPOSITORY
from omegaconf import OmegaConf

from examples.rehearsal import estimate
from examples.rehearsal import rehearse as rehearsal
from gen2embed.config import schema, values
from gen2embed.config.presets import compose_shipped, conf_dir
from gen2embed.utils.fingerprints import differences

NAMES = [name for _, name in rehearsal.experiments()]
REPLACED = {
    "model.path", "model.dtype", "paths.data_dir", "paths.output_dir", "trainer.accelerator", "data.path",
    "data.max_rows_per_subset", "benchmark.mmeb.annotations", "bootstrap", "batch.pairs", "batch.workers",
    "trainer.max_steps", "optim.scheduler.num_warmup_steps", "callbacks.steps.every_n_steps", "trainer.devices",
}  # fmt: skip


def composed(script, name, *overrides):
    cfg = compose_shipped(script.removesuffix(".py"), [f"experiment={name}", *overrides])
    return OmegaConf.to_container(cfg, resolve=False)


def test_there_is_one_for_each_of_the_papers_commands():
    assert NAMES == [
        "paper_mine_2b", "paper_train_2b", "paper_train_2b_one_gpu", "paper_train_7b", "paper_train_7b_one_gpu",
        "paper_evaluate_2b", "paper_evaluate_7b", "paper_zero_shot_2b", "paper_zero_shot_7b",
    ]  # fmt: skip


@pytest.mark.parametrize(("script", "name"), rehearsal.experiments())
def test_only_weights_data_and_length_are_replaced(script, name, tmp_path):
    whole = composed(script, name)
    dry = composed(script, name, *rehearsal.overrides(script, tmp_path, 8))
    assert dry["model"]["path"] != whole["model"]["path"]
    assert {line.split(" is ")[0] for line in differences(whole, dry)} <= REPLACED


@pytest.mark.parametrize("name", NAMES)
def test_each_has_a_target_and_says_what_was_published(name):
    header = (conf_dir() / "experiment" / f"{name}.yaml").read_text().split("defaults:")[0]
    assert "GPU" in header
    assert "Published" in header
    target = name.replace("paper_", "reproduce-").replace("_", "-")
    command = ["make", "--dry-run", target, "ARGS=seed=1"]
    dry = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    assert re.search(rf"paper_.*{name[6:]}|{name}", dry)
    assert "seed=1" in dry


def test_settings_of_the_paper():
    """Section 4 of its recipe, and the arguments of its README's commands."""
    for size in ("2b", "7b"):
        cfg = composed("train.py", f"paper_train_{size}")
        one = composed("train.py", f"paper_train_{size}_one_gpu")
        bounds = {"chunk_tokens", "gradient_checkpointing", "prefetch"}  # of memory
        batch, batch_of_one = (
            {key: its["batch"][key] for key in its["batch"] if key not in bounds} for its in (cfg, one)
        )
        assert batch == batch_of_one
        assert batch.items() >= {
            "pairs": 2048, "mixed": True, "chunk": 4, "workers": 8, "weights": None, "temperature": None,
        }.items()  # fmt: skip
        assert one["batch"]["gradient_checkpointing"] == (size == "7b")
        assert (cfg["model"]["dtype"], cfg["trainer"]["precision"], cfg["tf32"]) == ("bfloat16", "bf16-mixed", True)
        trainer = cfg["trainer"]
        assert (trainer["devices"], trainer["max_steps"], trainer["log_every_n_steps"]) == (8, 1500, 2)
        assert trainer["strategy"]["timeout_seconds"] == 700000
        assert (one["trainer"]["devices"], one["trainer"]["strategy"]) == (1, "auto")
        assert cfg["callbacks"]["steps"]["every_n_steps"] == 1000
        assert (cfg["data"]["split"], cfg["data"]["max_rows_per_subset"]) == ("diverse_instruction", 100000)
        assert cfg["data"]["clusters_of_any_model"] == (size == "7b")
        assert cfg["model"]["max_length"] == 1024
        assert cfg["resolution"]["policy"] == "mid_low"
        assert (cfg["resolution"]["min_pixels"], cfg["resolution"]["max_pixels"]) == (256 * 28 * 28, 1280 * 28 * 28)
        assert (cfg["loss"]["temperature"], cfg["loss"]["mask_identical"]) == (0.02, False)
        optim = cfg["optim"]
        assert (optim["optimizer"]["lr"], optim["optimizer"]["weight_decay"], optim["gradient_clip"]) == (5e-5, 0, 1)
        assert optim["scheduler"]["num_warmup_steps"] == 100
        assert (cfg["adapter"]["r"], cfg["adapter"]["alpha"], cfg["adapter"]["dora"]) == (8, 64, True)
        evaluation = composed("eval.py", f"paper_evaluate_{size}")
        assert (evaluation["model"]["max_length"], evaluation["resolution"]["policy"]) == (2048, "clamp")
        assert set(evaluation["benchmark"]) == {"mmeb", "sugarcrepe", "sugarcrepe_pp"}
    mine = composed("mine.py", "paper_mine_2b")
    assert (mine["mining"]["top_k"], mine["mining"]["pool_multiplier"]) == (15, 3)
    assert (mine["model"]["max_length"], mine["resolution"]["policy"]) == (2048, "clamp")
    data = composed("train.py", "paper_train_2b")["data"]
    assert all(mine["data"][key] == data[key] for key in ("path", "split", "max_rows_per_subset", "subsets"))
    for script, name in rehearsal.experiments():
        assert composed(script, name)["prompt"]["convention"] == "reference"


def test_a_failure_shows_its_log(tmp_path, monkeypatch):
    monkeypatch.setattr(rehearsal, "write_data", lambda folder: folder.mkdir(parents=True))
    monkeypatch.setattr(rehearsal, "run_script", fail)
    here = multiprocessing.get_context("fork")  # a server's forks would not know the function in its place
    monkeypatch.setattr(rehearsal.multiprocessing, "get_context", lambda _: here)
    with pytest.raises(SystemExit, match=r"(?s)mine.py experiment=paper_mine_2b .* failed \(3\):\nno such thing"):
        rehearsal.rehearse(tmp_path / "dry")


def fail(script, arguments, log):
    log.write_text("no such thing")
    sys.exit(3)


def test_every_experiment_passes_the_check():
    values.register_resolvers()
    for script, name in rehearsal.experiments():
        cfg = compose_shipped(script.removesuffix(".py"), [f"experiment={name}"])
        schema.check(cfg, script.removesuffix(".py"), [f"experiment={name}"])


SLOW = [name for name in NAMES if name.startswith("paper_train") and name != "paper_train_2b_one_gpu"]


@pytest.mark.parametrize(
    "name", ["paper_train_2b_one_gpu", *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
)
def test_each_training_says_what_memory_it_needs_and_fits(name):
    """The figures in its header are those that are computed from its settings, and its card holds them."""
    values.register_resolvers()
    text = (conf_dir() / "experiment" / f"{name}.yaml").read_text()
    card, stated = (re.search(rf"{pattern}", text)[1] for pattern in (r"of (\d+) GB", r"at most ([\d.]+) GiB"))
    needed = estimate.experiment_memory(compose_shipped("train", [f"experiment={name}"]))
    assert needed.total / 2**30 == pytest.approx(float(stated), abs=0.06 + 0.02 * float(stated))
    assert int(card) in estimate.fitting(needed.total)
    assert needed.workspace > 0.05 * needed.total
    assert needed.weights / 2**30 == pytest.approx(4.11 if "2b" in name else 15.49, abs=0.05)


def test_the_memory_of_an_experiment_follows_its_settings():
    """More tokens a chunk, more memory, in proportion; what checkpointing leaves out, and a smaller batch."""
    values.register_resolvers()
    name, needed = "experiment=paper_train_2b_one_gpu", {}
    shallow = {size: replace(shape, layers=2) for size, shape in estimate.PUBLISHED.items()}
    changes = (
        "batch.chunk_tokens=3072",
        "batch.gradient_checkpointing=true",
        "trainer.precision=32-true",
        "batch.pairs=256",
    )
    with mock.patch.object(estimate, "PUBLISHED", shallow):
        for change in ("seed=0", *changes):
            needed[change] = estimate.experiment_memory(compose_shipped("train", [name, change]))
    larger, checkpointed, precise, smaller = (needed[change] for change in changes)
    plain = needed["seed=0"]
    assert 1.7 < larger.workspace / plain.workspace < 2.5
    assert checkpointed.workspace < 0.8 * plain.workspace
    assert precise.workspace > 1.1 * plain.workspace
    assert smaller.features < plain.features
    assert smaller.workspace == plain.workspace
