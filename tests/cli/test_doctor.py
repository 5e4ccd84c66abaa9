"""The doctor names each of the defects that people have, alone, and finds nothing where there is none."""

import importlib.metadata
import json
import os
import shutil
import signal
import time
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from conftest import TINY, noise
from safetensors.torch import load_file, save_file
from steps import trained_adapter

from gen2embed.__main__ import main
from gen2embed.cli.checks import environment, threads, weights
from gen2embed.cli.checks.budget import Budget, TimeUp
from gen2embed.model.adapter import Lora


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    return trained_adapter(tmp_path_factory.mktemp("adapter"), Lora(["q_proj", "v_proj"], r=4))


@pytest.fixture
def doctor(capsys, tmp_path, monkeypatch):
    """Run it on a model in an empty folder; returns exit code, problems and all lines."""
    monkeypatch.chdir(tmp_path)

    def run(*args, model=TINY):
        capsys.readouterr()
        its = [] if model is None else ["--model", str(model), "--resolution", "original"]
        code = main(["doctor", *args, *its])
        lines = capsys.readouterr().out.splitlines()
        problems = [line.removeprefix("problem ") for line in lines if line.startswith("problem ")]
        assert code == bool(problems)
        assert f"{len(problems)} problems, " in lines[-1]
        return problems, lines

    return run


@pytest.fixture
def pictures(tmp_path):
    """Rows of training pairs, and the pictures that they name."""
    (tmp_path / "photos").mkdir()
    rows = []
    for number in range(4):
        noise(number).save(tmp_path / f"photos/{number}.png")
        row = {"qry": f"picture {number}", "qry_image_path": f"photos/{number}.png", "pos_text": "it"}
        rows.append(json.dumps({**row, "pos_image_path": ""}))
    (tmp_path / "pairs.jsonl").write_text("\n".join(rows))
    return tmp_path


PAIRS = ("data=pairs", "data.path=pairs.jsonl")


def test_nothing_is_wrong(doctor, pictures, adapter):
    problems, lines = doctor(*PAIRS, "photos", model=adapter)
    assert problems == []
    said = "\n".join(lines)
    assert f"transformers {importlib.metadata.version('transformers')}" in said
    assert "data, 4 pairs: 5 distinct items, 4 distinct pictures, of which 4 were opened whole" in said
    assert "photos: 4 distinct items" in said
    assert "adapter: matches its base and changes its output; language: q_proj, v_proj: 6 modules" in said
    assert "speed: texts: " in said
    assert "8 take about 0 seconds" in said  # the pictures of both; the text is one
    assert "M parameters in float32 on the cpu, vectors of 128 elements" in said


def copied(tmp_path, source=TINY, change=lambda folder: None):
    folder = Path(shutil.copytree(source, tmp_path / "copy"))
    change(folder)
    return folder


# --- weights --------------------------------------------------------------------------------------------------------


def sharded(folder):
    weights = load_file(folder / "model.safetensors")
    names = sorted(weights)
    parts = {f"model-0000{n + 1}-of-00002.safetensors": names[n::2] for n in range(2)}
    for file, its in parts.items():
        save_file({name: weights[name] for name in its}, folder / file, {"format": "pt"})
    weight_map = {name: file for file, its in parts.items() for name in its}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (folder / "model.safetensors").unlink()


def without_a_shard(folder):
    sharded(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()


def cut(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def pointer(folder):
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")


def without_a_weight(folder):
    weights = load_file(folder / "model.safetensors")
    save_file(dict(list(weights.items())[1:]), folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without_a_shard, "weights: {copy} lacks 1 of 2 shards: model-00002-of-00002.safetensors; download them again"),
        (cut, "weights: {copy}/model.safetensors ({size}) is cut or damaged ("),
        (pointer, "weights: {copy}/model.safetensors is a pointer of git and no weights; run git lfs pull there"),
        (without_a_weight, "model: the checkpoint {copy} does not fill the model: "),
        (lambda folder: (folder / "model.safetensors").unlink(), "weights: the checkpoint {copy} has no weights: "),
        (lambda folder: (folder / "chat_template.jinja").unlink(), "model: the model has no chat template, which "),
        (lambda folder: (folder / "config.json").write_text("{"), "model: the model {copy} could not be loaded: "),
        (
            lambda folder: (folder / "tokenizer.json").unlink(),
            "model: the tokenizer of {copy} tells no texts apart: its tokenizer.json is missing or empty",
        ),
    ],
)
def test_weights(doctor, tmp_path, change, said):
    copy = copied(tmp_path, change=change)
    (problem,), _ = doctor(model=copy)
    size = f"{(copy / 'model.safetensors').stat().st_size / 2**20:.1f} MiB" if change is cut else ""
    assert problem.startswith(said.format(copy=copy, size=size))


def test_whole_shards_are_fine(doctor, tmp_path):
    problems, lines = doctor(model=copied(tmp_path, change=sharded))
    assert problems == []
    assert f"ok      weights: {tmp_path / 'copy'} is whole, 2 of safetensors" in lines


def test_a_model_that_is_not_there(doctor):
    (problem,), _ = doctor(model="/nowhere/model")
    assert problem.startswith("weights: the model folder /nowhere/model does not exist")
    problems, lines = doctor(model="nobody/nothing")
    assert problems == []
    assert "warning weights: nobody/nothing is not downloaded; hf download nobody/nothing" in lines


def test_memory(doctor, monkeypatch):
    monkeypatch.setattr(weights, "free_bytes", lambda device: 2**20)
    (problem,), lines = doctor()
    assert problem.startswith("memory: the weights take 5.")
    assert "1.0 MiB are free; end other programs, or choose a smaller model" in problem
    assert not any("loads" in line for line in lines)


# --- adapters -------------------------------------------------------------------------------------------------------


def settings(**changes):
    def change(folder):
        file = folder / "adapter_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))

    return change


def zero(folder):
    its = load_file(folder / "adapter_model.safetensors")
    save_file(
        {name: torch.zeros_like(t) if "lora_B" in name else t for name, t in its.items()},
        folder / "adapter_model.safetensors",
    )
    (folder / "gen2embed.json").unlink()  # which knows their digest


def test_adapters(doctor, tmp_path, adapter):
    other = copied(tmp_path, change=settings_of_base)
    (problem,), _ = doctor("--adapter", str(adapter), model=other)
    assert "was trained on another base" in problem
    for change, said in (
        (settings(target_modules=["wq"]), "does not fit"),
        (zero, "changes no output of"),
        (settings(base_model_name_or_path="/gone/base"), "the model folder /gone/base does not exist"),
    ):
        shutil.rmtree(other)
        (problem,), _ = doctor(model=copied(tmp_path, adapter, change))
        assert said in problem
    cut_adapter = tmp_path / "cut"
    shutil.copytree(adapter, cut_adapter)
    (cut_adapter / "adapter_model.safetensors").write_bytes(b"\x08" + bytes(20))
    (problem,), _ = doctor(model=cut_adapter)
    assert problem.startswith(f"weights: {cut_adapter}/adapter_model.safetensors (0.0 MiB) is cut or damaged")


def settings_of_base(folder):
    """The same model in other bytes, so another base."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "note": 1}))


# --- data -----------------------------------------------------------------------------------------------------------


def test_pictures(doctor, pictures):
    (pictures / "photos/2.png").unlink()
    (problem,), _ = doctor(*PAIRS, model=None)
    assert problem.startswith("settings: 1 of 4 pictures are missing: photos/2.png; looked in ")
    (pictures / "photos/2.png").write_text("no picture")
    (problem,), _ = doctor(*PAIRS, model=None)
    assert problem == ("settings: 1 of 4 pictures are unreadable: photos/2.png; replace or remove them")
    whole = (pictures / "photos/1.png").read_bytes()
    (pictures / "photos/2.png").write_bytes(whole[: len(whole) // 2])  # its header is fine
    (problem,), _ = doctor("photos", model=None)
    assert problem.startswith("input photos: the file photos/2.png is not a picture that can be read: ")
    (problem,), _ = doctor(*PAIRS, "data.image_dir=elsewhere", model=None)
    assert problem.startswith("settings: the image folder elsewhere does not exist; set image_dir to where ")


def test_rows(doctor, pictures):
    with (pictures / "pairs.jsonl").open("a") as file:
        file.write('\n{"qry": "cut')
    (problem,), _ = doctor(*PAIRS, model=None)
    assert problem.startswith("settings: pairs.jsonl row 4 is not JSON: ")
    task = {"qry_text": "a dog", "qry_img_path": "", "tgt_text": ["dog", "cat"], "tgt_img_path": [""]}
    (pictures / "task.jsonl").write_text(json.dumps(task))
    (problem,), _ = doctor("benchmark=custom", "benchmark.annotations=task.jsonl", model=None)
    assert "row 0 has 2 tgt_text and 1 tgt_img_path" in problem


def test_settings(doctor, pictures):
    for override, said in (
        ("data=pears", "data=pears is unknown; choose one of "),
        ("data.pth=x", "data.pth is unknown; data has "),
        ("model=tiny", "model is not checked; give settings of data and benchmark"),
    ):
        (problem,), _ = doctor(override, model=None)
        assert said in problem


# --- the machine ----------------------------------------------------------------------------------------------------


def test_libraries(doctor, monkeypatch):
    """Out of bounds, or not there."""
    real = importlib.metadata.version

    def version(name):
        if name == "scipy":
            raise importlib.metadata.PackageNotFoundError(name)
        return "5.30.1" if name == "transformers" else real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    found, lines = doctor(model=None)
    assert found[0] == ("transformers 5.30.1: <5.25,>=5.23 is needed; pip install 'transformers<5.25,>=5.23'")
    assert found[1].startswith("scipy not installed: ")
    assert len(found) == 2
    assert not any(line.startswith("ok      libraries") for line in lines)


def test_bounds_of_an_installed_package(monkeypatch, tmp_path):
    """Without a clone's pyproject.toml, those of the package's metadata, and no extras'."""
    monkeypatch.setattr(environment, "PACKAGE", tmp_path / "gen2embed")
    python, wanted = environment._bounds()
    assert "3.11.0" in python
    names = {requirement.name for requirement in wanted}
    assert {"torch", "transformers"} <= names
    assert "pytest" not in names


def test_output(doctor, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    (problem,), _ = doctor("--output", "file/below", model=None)
    assert problem == (
        "output folder file/below: cannot be written: Not a directory; choose another folder, or free some space"
    )
    usage = namedtuple("usage", "free total")
    for free, state in ((2**20, "problem"), (2**30, "warning")):
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free=free: usage(free, 2**40))
        problems, lines = doctor("--output", str(tmp_path / "new/folder"), model=None)
        problems = [problem for problem in problems if problem.startswith("output folder")]
        assert len(problems) == (state == "problem")
        assert any(line.startswith(state) and "the disk has 1.0 " in line for line in lines)
    if os.geteuid():
        (tmp_path / "closed").mkdir(mode=0o500)
        (problem,), _ = doctor("--output", "closed", model=None)
        assert "Permission denied" in problem


def test_an_error_that_nobody_foresaw(doctor, monkeypatch):
    def fail(*_):
        raise RuntimeError("out of luck")

    monkeypatch.setattr("gen2embed.cli.commands.doctor.load_model", fail)
    (problem,), _ = doctor()
    assert problem == "model: unexpected RuntimeError: out of luck; please report it"


# --- a time limit, and what is said on the way ----------------------------------------------------------------------


def warnings_of(lines):
    return [line.removeprefix("warning ") for line in lines if line.startswith("warning ") and "no GPU" not in line]


@pytest.mark.parametrize(
    ("seconds_each", "expected"),
    [
        (0.3, ["speed: texts", "timed on 4 only"]),  # a group of 32 would take ten seconds
        (60.0, ["tells texts apart is unknown", "tells pictures apart is unknown", "not one"]),
    ],
)
def test_a_slow_model_is_measured_within_a_limit(doctor, monkeypatch, seconds_each, expected):
    def encode(self, inputs, *_):
        count = len(inputs) if isinstance(inputs, list) else 1
        for _ in range(100):  # as the operations of a forward pass
            time.sleep(seconds_each * count / 100)
        return torch.eye(8)[:count]

    monkeypatch.setattr("gen2embed.model.embedder.Embedder.encode", encode)
    started = time.monotonic()
    problems, lines = doctor("--seconds", "6" if seconds_each < 1 else "1")
    assert time.monotonic() - started < 25
    assert not problems
    said = " ".join(warnings_of(lines))
    assert all(part in said for part in expected), lines
    assert "--seconds=" in said
    assert any("parameters in float32" in line for line in lines)


def test_each_slow_thing_is_announced(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts.txt").write_text("a\nb\n")
    assert main(["doctor", "texts.txt", "--model", str(TINY)]) == 0
    err = " ".join(capsys.readouterr().err.split())
    for step in ("reading texts.txt", "loading the model", "embedding two texts", "timing texts, at most"):
        assert f"... {step}" in err


def test_ctrl_c_leaves_what_was_found(capsys, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("gen2embed.cli.commands.doctor.check_speed", interrupt)
    assert main(["doctor", "--model", str(TINY)]) == 130
    lines = capsys.readouterr().out.splitlines()
    assert any("parameters in float32" in line for line in lines)
    assert "Ctrl-C" in lines[-1]


def test_a_time_that_is_none(capsys):
    assert main(["doctor", "--seconds", "0"]) == 1
    assert "--seconds must be above 0" in capsys.readouterr().err


def test_the_timer_is_gone_afterwards():
    budget = Budget(0.2)
    with pytest.raises(TimeUp), budget.limited():
        time.sleep(5)
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    with pytest.raises(TimeUp), budget.limited():  # nothing is left
        pytest.fail("it began")


# --- threads --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "rates", "cpus", "load", "state", "expected"),
    [
        (1, {}, 4, 9.0, "ok", "takes 1 of 4 CPUs"),
        (4, {4: 300.0, 1: 100.0}, 4, 0.1, "ok", "3.0 times as fast as one"),
        (4, {4: 39.0, 1: 300.0}, 4, 3.6, "warning", "set OMP_NUM_THREADS=1"),
        (8, {8: 90.0, 1: 300.0}, 8, 2.5, "warning", "set OMP_NUM_THREADS=5"),
        (16, {16: 300.0, 1: 200.0}, 2, 0.0, "warning", "set OMP_NUM_THREADS=2"),
    ],
)
def test_threads(monkeypatch, count, rates, cpus, load, state, expected):
    monkeypatch.setattr(torch, "get_num_threads", lambda: count)
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0, 0))
    monkeypatch.setattr(threads, "usable_cpus", lambda: cpus)
    monkeypatch.setattr(threads, "measure", rates.__getitem__)
    (finding,) = threads.check_threads()
    assert (finding.state, expected in finding.text) == (state, True), finding


def test_cpus_of_a_container(monkeypatch, tmp_path):
    monkeypatch.setattr(threads, "CGROUP", tmp_path)
    everything = threads.usable_cpus()
    assert everything >= 1
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    assert threads.usable_cpus() == 0.5
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert threads.usable_cpus() == everything


def test_measuring_leaves_the_threads_as_they_were():
    before = torch.get_num_threads()
    assert threads.measure(2) > 0
    assert torch.get_num_threads() == before
