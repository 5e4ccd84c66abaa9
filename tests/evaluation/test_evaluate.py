"""Scoring on a model whose vectors are given, with planted ties; then the entry script, whole and with bad input."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import TINY
from omegaconf import OmegaConf
from PIL import Image
from transformers import AutoModelForImageTextToText
from vectors import Given, task

from gen2embed.data.benchmark import Benchmark
from gen2embed.encoding.engine import Engine
from gen2embed.evaluation.evaluate import evaluate
from gen2embed.reports.evaluation.page import write_report
from gen2embed.types import RankingTask


def read(item):
    return np.array([float(x) for x in item.texts[0].split()])


@pytest.fixture(scope="module")
def benchmark():
    rng = np.random.default_rng(0)
    tasks = (task("a", "one", rng), task("b", "one", rng, size=4), task("c", "two", rng))
    return Benchmark("given", tasks, {"one": ["a", "b"], "two": ["c", "absent"]})


def test_scores_against_loops(benchmark):
    result = evaluate(Given(), Engine(4), benchmark, resamples=200)
    expected, ties = {}, 0
    for its in benchmark.tasks:
        right, strict = [], []
        for query, choices in zip(its.queries, its.choices, strict=True):
            scores = [float(read(query) @ read(its.candidates[choice])) for choice in choices]
            right.append(max(range(len(scores)), key=lambda i: (scores[i], -i)) == 0)
            strict.append(all(scores[0] > score for score in scores[1:]))
        expected[its.name] = (np.mean(right), np.mean(strict))
        ties += sum(right) - sum(strict)
    assert ties > 5
    for name, (right, strict) in expected.items():
        scored = result.scores["tasks"][name]
        assert scored["precision@1"] == pytest.approx(right)
        assert scored["pessimistic"] == pytest.approx(strict)
        assert scored["ci95"][0] <= right <= scored["ci95"][1]
    one = result.scores["groups"]["one"]
    assert one["precision@1"] == pytest.approx((expected["a"][0] + expected["b"][0]) / 2)
    assert one["chance"] == pytest.approx((1 / 5 + 1 / 4) / 2)
    assert result.scores["groups"]["two"] is None  # a task of it was not run
    assert result.scores["overall"] is None


def test_predictions_have_a_row_a_query(benchmark):
    table = evaluate(Given(), Engine(4), benchmark, resamples=10).predictions.to_pylist()
    assert [(row["task"], row["query"]) for row in table] == [(t.name, q) for t in benchmark.tasks for q in range(40)]
    for row in table:
        assert row["correct"] == (row["top"][0] == 0)
        assert row["pessimistic"] == (row["rank"] == 1)
        assert row["top_similarities"] == sorted(row["top_similarities"], reverse=True)


def test_a_task_may_prompt_candidates_as_queries(benchmark):
    roles = {}

    class Noting(Given):
        def embed(self, items, role):
            roles.setdefault(role, set()).update(item.texts[0] for item in items)
            return super().embed(items, role)

    its = benchmark.tasks[0]
    swapped = RankingTask(
        its.name, its.group, its.queries, its.candidates, its.choices, its.relevance, "query", "query"
    )
    evaluate(Noting(), Engine(4), Benchmark("x", (swapped,), {"one": ["a"]}), resamples=10)
    assert set(roles) == {"query"}


def test_chance_level_warns(benchmark, caplog, monkeypatch):
    monkeypatch.setattr("gen2embed.evaluation.evaluate.ENOUGH", 1)

    class Flat(Given):
        def embed(self, items, role):
            return torch.ones(len(items), 2)

    backwards = tuple(replace(its, relevance=tuple(row[::-1] for row in its.relevance)) for its in benchmark.tasks)
    evaluate(Flat(), Engine(4), Benchmark("x", backwards, benchmark.groups), resamples=10)
    assert "no task is above chance" in caplog.text


# --- python eval.py -------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(world, tmp_path):
    """A copy of the small world, to be spoilt."""
    copy = tmp_path / "world"
    world.eval()
    shutil.copytree(world.folder, copy)
    return copy


@pytest.fixture
def evaluate_small(run_script, tmp_path, world):
    def run(*args, folder=world.folder):
        small = [f"benchmark.folder={folder}", "benchmark.queries=8", "bootstrap=50"]
        flags = [arg for arg in args if arg.startswith("-")]  # come first
        return run_script("eval.py", *flags, *small, *(arg for arg in args if arg not in flags))

    return run


def test_eval_leaves_everything(evaluate_small, tmp_path):
    outcome = evaluate_small("output_dir=run")
    assert outcome.code == 0, outcome.err
    assert {"results.json", "predictions.parquet", "scores.png", "config.yaml", "manifest.json", "metrics.csv"} <= {
        path.name for path in (tmp_path / "run").iterdir()
    }
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert len(results["tasks"]) == 12
    assert set(results["groups"]) == {"classification", "vqa", "retrieval", "grounding"}
    assert results["overall"]["tasks"] == 12
    assert results["overall"]["precision@1"] == pytest.approx(
        np.mean([its["precision@1"] for its in results["tasks"].values()])
    )
    manifest = results["manifest"]
    assert manifest == json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["config"]["output_dir"] == str(tmp_path / "run")
    assert manifest["config"]["model"]["path"] == str(TINY)
    assert manifest["fingerprint"]["prompt"]["convention"] == "native"
    assert manifest["items_computed"] > 100
    assert OmegaConf.to_container(OmegaConf.load(tmp_path / "run" / "config.yaml")) == manifest["config"]
    assert pq.read_table(tmp_path / "run" / "predictions.parquet").num_rows == 12 * 8
    with Image.open(tmp_path / "run" / "scores.png") as chart:
        assert chart.width > 500
    page = tmp_path / "run" / "report.html"
    written = page.read_bytes()
    write_report([tmp_path / "run"], page, manifest["config"]["report_queries"])
    assert page.read_bytes() == written
    for name in (*results["tasks"], *results["groups"], "overall", "pessimistic", "chance"):
        assert name in outcome.out

    again = evaluate_small("output_dir=again")
    second = json.loads((tmp_path / "again" / "results.json").read_text())
    assert second["manifest"]["items_computed"] == 0, again.err
    assert {k: v for k, v in second.items() if k != "manifest"} == {k: v for k, v in results.items() if k != "manifest"}


@pytest.mark.parametrize(
    ("args", "left"),
    [
        (["logger=tensorboard"], "tensorboard/events.*"),
        (["logger=wandb", "logger.offline=true"], "wandb/offline-run-*"),
    ],
)
def test_loggers(evaluate_small, tmp_path, args, left):
    outcome = evaluate_small("output_dir=run", "benchmark.subsets=[shape]", "engine.store=null", *args)
    assert outcome.code == 0, outcome.err
    assert list((tmp_path / "run").glob(left))


def test_subset_of_tasks(evaluate_small, tmp_path):
    outcome = evaluate_small("output_dir=run", "benchmark.subsets=[shape,colour,grounding]", "engine.store=null")
    assert outcome.code == 0, outcome.err
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert set(results["tasks"]) == {"shape", "colour", "grounding"}
    assert results["groups"]["grounding"]["tasks"] == 1
    assert results["groups"]["classification"] is None
    assert results["overall"] is None
    assert "only 2 tasks" in outcome.out


def test_multirun(evaluate_small, tmp_path):
    outcome = evaluate_small("-m", "prompt=none,system", "output_dir=sweep", "benchmark.subsets=[grounding]")
    assert outcome.code == 0, outcome.err
    systems = []
    for file in (tmp_path / "sweep").glob("*/manifest.json"):
        manifest = json.loads(file.read_text())
        assert manifest["config"]["output_dir"] == str(file.parent)
        systems.append(manifest["config"]["prompt"]["system"])
    assert sorted(map(len, systems)) == [0, 2]


def spoil_rows(folder, column, value):
    (file,) = folder.glob("eval-*/shape/test-*.parquet")
    table = pq.read_table(file)
    values = table[column].to_pylist()
    values[3] = value
    index = table.column_names.index(column)
    pq.write_table(table.set_column(index, column, pa.array(values, table.schema.field(column).type)), file)


def no_rows(folder):
    (file,) = folder.glob("eval-*/shape/test-*.parquet")
    pq.write_table(pq.read_table(file).slice(0, 0), file)


def no_column(folder):
    (file,) = folder.glob("eval-*/shape/test-*.parquet")
    pq.write_table(pq.read_table(file).drop_columns("tgt_text"), file)


def missing_pictures(folder):
    for path in folder.glob("eval-*/images/shape/[0-4].png"):
        path.unlink()


def no_picture(folder):
    next(folder.glob("eval-*/images/colour/3.png")).write_text("not a picture")


def cut_picture(folder):
    path = next(folder.glob("eval-*/images/colour/3.png"))
    path.write_bytes(path.read_bytes()[:60])


def neither(folder):
    spoil_rows(folder, "qry_text", "")
    spoil_rows(folder, "qry_img_path", "")


@pytest.mark.parametrize(
    ("spoil", "args", "message"),
    [
        (missing_pictures, [], r"error: 5 of \d+ pictures are missing: .*images/shape/0.png, .*…; looked in .*eval-"),
        (no_picture, [], r"error: 1 of \d+ pictures are unreadable: .*colour/3.png; replace or remove"),
        (cut_picture, [], r"error: (1 of \d+ pictures are unreadable|the file) .*colour/3.png"),
        (neither, [], r"error: .*shape.*row 3: an item needs a text or a picture; this one has neither"),
        (no_rows, [], r"error: the task shape in .* is empty: it has no rows"),
        (
            no_column,
            [],
            r"error: .*shape.*parquet lacks the column tgt_text; it has qry_text, qry_img_path, tgt_img_path",
        ),
        (
            lambda f: None,
            ["report_queries=-1"],
            r"error: report_queries is a number of queries of each task, .* got -1",
        ),
        (lambda f: spoil_rows(f, "tgt_text", ["a"]), [], r"error: .*shape.*row 3 has 1 tgt_text and 8 tgt_img_path"),
        (
            lambda f: shutil.rmtree(next(f.glob("eval-*/shape"))),
            [],
            r"error: .*shape has no file test-\*.parquet or test.jsonl; .* holds ",
        ),
        (
            None,
            ["benchmark.subsets=[]"],
            r"error: benchmark world is empty: benchmark.subsets=\[\] leaves no task of 12",
        ),
        (None, ["benchmark.subsets=[shapes]"], r"error: benchmark world has no task shapes; choose from shape, colour"),
        (None, ["model.path=/nowhere"], r"error: the model folder /nowhere does not exist"),
        (None, ["model.path=."], r"error: the folder \. is not a Hugging Face checkpoint: it has no config.json"),
        (None, ["trainer.accelerator=gppu"], r"error: the trainer cannot be made: .*invalid accelerator name"),
        (None, ["benchmark.queries=0"], r"error: the world needs rows and queries of at least 1"),
        (None, ["engine.batch_tokens=0"], r"error: engine.batch_tokens is at least 1; got 0"),
        (
            None,
            ["model.max_length=20", "engine.store=null"],
            r"error: an input needs \d+ tokens without any of its own",
        ),
    ],
)
def test_bad_input(evaluate_small, folder, spoil, args, message, monkeypatch):
    if spoil:
        spoil(folder)
        monkeypatch.setattr("gen2embed.model.backbone.AutoModelForImageTextToText", _Loaded(spoil is cut_picture))
    outcome = evaluate_small(*args, folder=folder)
    assert outcome.code == 1
    assert re.search(message, " ".join(outcome.err.split())), outcome.err
    assert "Traceback" not in outcome.err


class _Loaded:
    """Loads only where it may: what can be seen in the data is seen before the model is loaded."""

    def __init__(self, allowed):
        self.allowed = allowed

    def from_pretrained(self, *args, **kwargs):
        assert self.allowed, "the model was loaded before the data was checked"
        return AutoModelForImageTextToText.from_pretrained(*args, **kwargs)
