"""The paper's experiments: each has its command, target and expected score, and only what must be is replaced in a
rehearsal. `make reproduce-dry` runs it."""

import multiprocessing
import re
import subprocess
import sys

import pytest
from conftest import REPOSITORY
from omegaconf import OmegaConf

from gen2embed import config, rehearsal
from gen2embed.encoder.store import differences
from gen2embed.presets import compose_shipped, conf_dir

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
        assert cfg["batch"] == one["batch"]
        assert cfg["batch"] == {
            "pairs": 2048, "mixed": True, "chunk": 4, "chunk_tokens": None, "workers": 8,
            "weights": None, "temperature": None, "gradient_checkpointing": False,
        }  # fmt: skip
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
    config.register_resolvers()
    for script, name in rehearsal.experiments():
        cfg = compose_shipped(script.removesuffix(".py"), [f"experiment={name}"])
        config.check(cfg, script.removesuffix(".py"), [f"experiment={name}"])
