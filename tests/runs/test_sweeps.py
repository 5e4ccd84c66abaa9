"""Multiruns: by every launcher, gone on with after a stop, and compared."""

import csv
import json
import os
import subprocess

import pytest
from conftest import REPOSITORY, TINY

from gen2embed import UserError
from gen2embed.__main__ import main
from gen2embed.config.values import _file_name
from gen2embed.runs.sweeps import input_digests, is_finished

SMALL = (
    f"model.path={TINY}",
    "paths.data_dir=data",
    "bootstrap=10",
    "engine.store=null",
    "benchmark.queries=4",
    "benchmark.subsets=[grounding]",
    "output_dir=sweep",
)
TRAINED = ("data.rows=24", "data.subsets=[shape,t2i]", "mining.top_k=7", "trainer.max_steps=1", "batch.pairs=8")


@pytest.fixture
def run(python, tmp_path):
    """Run a script in a process of its own, from which a launcher starts further ones; returns what it printed."""

    def run(script, *args):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
        command = [python, str(REPOSITORY / script), "-m", *args, *SMALL]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return " ".join((done.stdout + done.stderr).split())

    return run


def reports(folder):
    return {path: path.stat().st_mtime_ns for path in (folder / "sweep").glob("*/report.html")}


def test_four_jobs_side_by_side_and_none_of_them_again(run, tmp_path, capsys):
    grid = ("prompt=hierarchical,none", "seed=1,2")
    jobs = (*grid, *TRAINED, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    run("train.py", *jobs)
    first = reports(tmp_path)
    assert len(first) == 4

    lost = sorted(first)[3]
    lost.unlink()
    said = run("train.py", *jobs)
    second = reports(tmp_path)
    assert {path for path in first if second[path] != first[path]} == {lost}
    assert said.count("finished before") == 3

    assert main(["compare", str(tmp_path / "sweep")]) == 0
    shown = capsys.readouterr().out
    assert "prompt=none" in shown
    assert "nan" not in shown  # of this world's tasks, one was run
    with (tmp_path / "sweep/scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4
    assert {row["seed"] for row in rows} == {"1", "2"}


def test_submitit_in_this_machine(run, tmp_path):
    run("eval.py", "hydra/launcher=submitit_local", "hydra.launcher.timeout_min=5")
    assert len(reports(tmp_path)) == 1


def test_a_finished_run_of_other_settings_is_not_one_of_these(tmp_path):
    (tmp_path / "manifest.json").write_text('{"config": {"seed": 1, "output_dir": "here"}}')
    assert not is_finished(tmp_path, {"seed": 1})
    (tmp_path / "report.html").write_text("")
    assert is_finished(tmp_path, {"seed": 1, "output_dir": "there"})
    with pytest.raises(UserError, match=r"seed is 1 .*2 here; choose"):
        is_finished(tmp_path, {"seed": 2})


def test_a_run_from_before_the_pooling_was_a_choice_is_finished(tmp_path):
    (tmp_path / "manifest.json").write_text('{"config": {"model": {"path": "a"}}}')
    (tmp_path / "report.html").write_text("")
    config = {"model": {"path": "a"}, "pooling": {"_target_": "gen2embed.model.pooling.LastToken"}}
    assert is_finished(tmp_path, config)
    with pytest.raises(UserError, match=r"pooling\._target_"):
        is_finished(tmp_path, {**config, "pooling": {"_target_": "gen2embed_mean.Mean"}})


def test_a_jobs_folder_has_a_name_that_the_disk_takes(tmp_path):
    assert _file_name("data.path=/a/b,seed=1") == "data.path=_a_b,seed=1"
    long, other = ("x" * 300 + end for end in "ab")
    assert _file_name(long) != _file_name(other)
    (tmp_path / _file_name(long)).mkdir()


def test_a_finished_run_of_other_inputs_runs_again(tmp_path, caplog):
    """A model, an adapter or rows that have changed since, and nothing else of their folders."""
    model, adapter, rows = tmp_path / "model", tmp_path / "adapter", tmp_path / "rows"
    for folder in (model, adapter, rows / "a", tmp_path / "job"):
        folder.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    (adapter / "adapter_config.json").write_text('{"r": 8}')
    (adapter / "adapter_model.safetensors").write_bytes(b"1")
    (rows / "a/rows.jsonl").write_text("1")
    config = {
        "model": {"path": str(model)},
        "checkpoint": str(adapter),
        "data": {"path": str(rows), "split": "x" * 5000},
        "pooling": {"_target_": "gen2embed.model.pooling.LastToken"},
    }
    manifest = {"config": config, "inputs": input_digests(config)}
    assert set(manifest["inputs"]) == {"model.path", "checkpoint", "data.path"}
    (tmp_path / "job/manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "job/report.html").write_text("")
    for folder in (model, adapter, rows):
        (folder / "README.md").write_text("")
    assert is_finished(tmp_path / "job", config)
    for file, key in (
        (model / "chat_template.jinja", "model.path"),
        (adapter / "adapter_model.safetensors", "checkpoint"),
        (rows / "a/rows.jsonl", "data.path"),
    ):
        before = file.read_bytes() if file.is_file() else None
        file.write_bytes(b"2")
        caplog.clear()
        with caplog.at_level("INFO"):
            assert not is_finished(tmp_path / "job", config)
        assert key in caplog.text
        file.unlink() if before is None else file.write_bytes(before)
    assert is_finished(tmp_path / "job", config)
