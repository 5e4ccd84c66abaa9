"""Models, adapters and data of the hub: loaded by its own clients, and pinned to the commit that a run began with."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
import yaml
from conftest import REPOSITORY, TINY
from hub import Hub

from examples.rehearsal.stand_ins import write_mmeb_eval, write_mmeb_train
from gen2embed.config.pins import pins
from gen2embed.config.presets import load_preset
from gen2embed.data.benchmark import task_digest
from gen2embed.data.mmeb import read_mmeb

GROUPS = {"retrieval": ["OVEN"]}
MODEL = ["model=tiny", "model.path=me/tiny", "logger=none", "bootstrap=10", "report_queries=0"]


@contextmanager
def client(folder, address, **more):
    """Runs a script, a module or `-c CODE` where the hub is at `address`; returns its exit code and what it said."""
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("HF_")},
        "HF_ENDPOINT": address,
        "HF_HOME": str(folder / "home"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1",
        "PYTHONPATH": str(REPOSITORY),
        **more,
    }
    command = [sys.executable, str(REPOSITORY / "tests/helpers/hub_client.py")]
    program = subprocess.Popen(
        command, env=environment, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )

    def run(*args, **told):
        program.stdin.write(json.dumps([[str(arg) for arg in args], told]) + "\n")
        program.stdin.flush()
        return json.loads(program.stdout.readline())

    yield run
    program.stdin.close()
    assert program.wait(60) == 0


def with_card(folder, split):
    """The folder with the card that tells datasets of its one subset, as MMEB's repositories have it."""
    files = [{"split": split, "path": f"OVEN/{split}-*"}]
    card = yaml.safe_dump({"configs": [{"config_name": "OVEN", "data_files": files}]})
    (folder / "README.md").write_text(f"---\n{card}---\n")
    return folder


def changed(folder, into):
    """A copy of a repository's folder with another README: a further commit of the same weights or rows."""
    shutil.copytree(folder, into)
    (into / "README.md").write_text("changed")
    return into


def config(folder):
    return yaml.safe_load((folder / "config.yaml").read_text())


def results(folder):
    return json.loads((folder / "results.json").read_text())


@pytest.fixture(scope="module")
def at(tmp_path_factory):
    """A hub with a model, an adapter of it, training rows and tasks; the model has a newer commit.

    run: a client of it. folder: where it runs. Further names are commits.
    """
    folder = tmp_path_factory.mktemp("hub")
    write_mmeb_train(folder / "train", ["OVEN"], rows=8)
    write_mmeb_eval(folder / "eval", GROUPS, queries=3, candidates=4)
    hub = Hub(folder / "repositories")
    base = hub.commit("model", "me/tiny", TINY, "main")
    rows = hub.commit("dataset", "me/train", with_card(folder / "train", "original"), "main")
    tasks = hub.commit("dataset", "me/eval", with_card(folder / "eval", "test"), "main", "v1")
    with hub.served() as address, client(folder, address) as run:
        its = ["data=mmeb", "data.path=me/train", "data.subsets=[OVEN]", f"data.image_dir={folder}/train"]
        steps = ["trainer.max_steps=3", "batch.pairs=4", "optim.optimizer.lr=0.1", "mining=none", "benchmark=none"]
        code, said = run("train.py", *MODEL, *its, *steps, f"output_dir={folder}/trained")
        assert code == 0, said
        adapter = hub.commit("model", "me/adapter", folder / "trained/adapter", "main", "v1")
        newer = hub.commit("model", "me/tiny", changed(TINY, folder / "newer"), "main")
        its = {"base": base, "newer": newer, "rows": rows, "tasks": tasks, "adapter": adapter}
        yield SimpleNamespace(hub=hub, folder=folder, run=run, said=said, **its)


def evaluation(at, name, *overrides):
    tasks = ["benchmark=mmeb", "benchmark.annotations=me/eval", "benchmark.subsets=[OVEN]",
             f"benchmark.image_dir={at.folder}/eval"]  # fmt: skip
    return ["eval.py", *MODEL, *tasks, "checkpoint=me/adapter", *overrides, f"output_dir={at.folder / name}"]


def test_training_from_the_hub(at):
    left = config(at.folder / "trained")
    assert (left["model"]["revision"], left["data"]["revision"]) == (at.base, at.rows)
    assert json.loads((at.folder / "trained/adapter/adapter_config.json").read_text())["revision"] == at.base
    assert "HTTP" not in at.said


def test_an_adapter_is_loaded_onto_the_commit_that_it_was_trained_on(at):
    code, said = at.run(*evaluation(at, "refused"))
    assert code == 1
    assert f"is me/tiny (me/tiny@{at.newer}); set model.revision={at.base}" in said

    (at.folder / "words.txt").write_text("a dog\n")
    code, said = at.run("gen2embed", "embed", "words.txt", "--model", "me/adapter", "--output", "words.parquet")
    assert code == 0, said
    made_by = json.loads(pq.read_schema(at.folder / "words.parquet").metadata[b"gen2embed"])
    assert made_by["fingerprint"]["model"] == f"me/tiny@{at.base}"


def test_a_run_goes_on_with_the_commits_that_it_began_with(at):
    chosen = "checkpoint_revision=v1", f"model.revision={at.base}"
    code, said = at.run(*evaluation(at, "scored", *chosen))
    assert code == 0, said
    pinned, first = config(at.folder / "scored"), results(at.folder / "scored")
    assert (pinned["checkpoint_revision"], pinned["benchmark"]["revision"]) == (at.adapter, at.tasks)
    assert first["manifest"]["config"]["benchmark"]["revision"] == at.tasks
    assert first["manifest"]["fingerprint"]["model"] == f"me/tiny@{at.base}"
    local = read_mmeb(str(at.folder / "eval"), at.folder / "eval", GROUPS).tasks[0]
    assert first["tasks"]["OVEN"]["digest"] == task_digest(local)

    write_mmeb_eval(at.folder / "later", GROUPS, queries=2, candidates=3)
    later = at.hub.commit("dataset", "me/eval", with_card(at.folder / "later", "test"), "main")
    code, said = at.run(*evaluation(at, "scored", *chosen))
    assert code == 0, said
    assert f"benchmark.revision is {at.tasks}, as when this run began" in " ".join(said.split())
    assert config(at.folder / "scored") == pinned
    assert results(at.folder / "scored")["tasks"] == first["tasks"]
    assert at.run(*evaluation(at, "again", *chosen))[0] == 0
    assert config(at.folder / "again")["benchmark"]["revision"] == later
    assert results(at.folder / "again")["tasks"]["OVEN"]["queries"] == 2

    with client(at.folder, "http://127.0.0.1:9", HF_HUB_OFFLINE="1") as run:
        code, said = run(*evaluation(at, "offline", *chosen))
        assert code == 0, said
        assert config(at.folder / "offline")["benchmark"]["revision"] == later
        assert results(at.folder / "offline")["tasks"] == results(at.folder / "again")["tasks"]
        code, said = run(*evaluation(at, "refused", *chosen, f"benchmark.revision={at.tasks}"))
        assert code == 1
        assert f"what was loaded last of me/eval OVEN is of commit {later}, not of revision {at.tasks}" in said


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("benchmark.revision=v9", "the dataset me/eval has no revision v9"),
        ("model.path=me/none", "the model me/none could not be loaded"),
        ("checkpoint=me/none", "me/none is no folder here, and could not be loaded from the hub"),
        ("benchmark.annotations=me/none", "the subset OVEN, split test, of me/none could not be loaded"),
    ],
)
def test_what_is_not_on_the_hub(at, override, message):
    code, said = at.run(*evaluation(at, "refused", override))
    assert code == 1
    assert message in said


PUSH = """
from gen2embed import Embedder
chosen = {"prompt": "suffix"} if "prompt" in told else {}
embedder = Embedder.from_pretrained(told["path"], resolution="original", device="cpu", **chosen)
print(embedder.push_to_hub(told["to"], **told["how"]))
"""
EMBED = """
import json
from gen2embed import Embedder
embedder = Embedder.from_pretrained(told["path"], revision=told["revision"], device="cpu")
print(json.dumps([embedder.build.prompt.describe(), embedder.encode("a red star").tolist()]))
"""


def test_what_is_pushed_is_loaded_again(at):
    local = str(at.folder / "trained/adapter")
    code, said = at.run("-c", PUSH, path=str(TINY), prompt=True, to="me/pushed",
                        how={"private": True, "revision": "next", "token": "hf_secret"})  # fmt: skip
    assert code == 0, said
    commits = at.hub.refs["model", "me/pushed"]
    assert said.splitlines()[-1] == f"https://huggingface.co/me/pushed/commit/{commits['next']}"
    assert at.hub.visibility == {"me/pushed": "private"}
    assert "Bearer hf_secret" in at.hub.tokens
    assert not (at.hub.folder("model", "me/pushed", "main") / "config.json").exists()
    there = at.run("-c", EMBED, path="me/pushed", revision="next")
    assert there[0] == 0, there[1]
    assert json.loads(there[1].splitlines()[-1])[0] == load_preset("prompt", "suffix").describe()

    code, said = at.run("-c", PUSH, path=local, to="me/second", how={})
    assert code == 0, said
    assert not (at.hub.folder("model", "me/second", "main") / "model.safetensors").exists()
    there, here = (at.run("-c", EMBED, path=path, revision=None) for path in ("me/second", local))
    assert there[0] == here[0] == 0, there[1]
    assert there[1].splitlines()[-1] == here[1].splitlines()[-1]

    code, said = at.run("-c", PUSH, path=str(TINY), to="nobody/mine", how={})
    assert code == 1
    assert "the model could not be uploaded to nobody/mine" in said
    assert "not yours" in said


@pytest.fixture
def asked(monkeypatch):
    """What is asked of the hub, which answers with the name of the revision."""
    asked = []

    def resolve(self, repository, *, repo_type, revision):
        asked.append((repository, repo_type, revision))
        return type("Resolved", (), {"resolved": f"commit of {revision}"})

    monkeypatch.setattr("huggingface_hub.HfApi.resolve_revision", resolve)
    return asked


def test_what_is_pinned(asked, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a/folder").mkdir(parents=True)
    given = {
        "checkpoint": "me/adapter", "checkpoint_revision": "v1",
        "model": {"path": "a/folder", "revision": None},
        "data": {"path": "/somewhere/else", "revision": "main"},
        "benchmark": {"mmeb": {"annotations": "me/eval", "revision": None}, "own": {"annotations": "me/own"}},
        "paths": ["me/list"],
    }  # fmt: skip
    assert pins(given, {}) == {"checkpoint_revision": "commit of v1", "benchmark.mmeb.revision": "commit of None"}
    assert asked == [("me/adapter", "model", "v1"), ("me/eval", "dataset", None)]
    before = {"benchmark": {"mmeb": {"annotations": "me/eval", "revision": "old"}}, "checkpoint": "me/adapter",
              "checkpoint_revision": "older"}  # fmt: skip
    assert pins(given, before) == {"checkpoint_revision": "commit of v1", "benchmark.mmeb.revision": "commit of old"}
    before["benchmark"]["mmeb"]["annotations"] = "me/other"
    assert pins(given, before)["benchmark.mmeb.revision"] == "commit of None"
