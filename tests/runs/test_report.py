"""Tables, charts and the demo's summary, from results alone."""

import copy
import io
import json
import re
import subprocess

import pytest
from rich.console import Console

from examples import demo
from gen2embed import UserError
from gen2embed.__main__ import main as command
from gen2embed.cli.commands import compare
from gen2embed.runs import console as tables
from gen2embed.runs import results as report
from gen2embed.utils import commit


def score(value, chance=0.1):
    return {"precision@1": value, "ci95": [value - 0.05, value + 0.05], "pessimistic": value, "chance": chance}


SCORES = {
    "benchmark": "b",
    "tasks": {
        "x": {"group": "one", "queries": 10, "candidates": 4, **score(0.5)},
        "y": {"group": "two", "queries": 10, "candidates": [2, 7], **score(0.25)},
    },
    "groups": {"one": {"tasks": 1, **score(0.5)}, "two": None, "three": None},
    "averages": {"IND": None},
    "overall": None,
}
WHOLE = {**SCORES, "groups": {"one": SCORES["groups"]["one"], "two": score(0.25)}, "overall": score(0.375),
         "averages": {"IND": score(0.41)}}  # fmt: skip


def text(table):
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


def test_score_table():
    shown = text(tables.score_table(SCORES))
    assert "50.0" in shown
    assert "45.0 - 55.0" in shown
    assert "2-7" in shown
    assert "only 2 tasks" in shown
    assert "three" not in shown
    assert "incomplete" in shown
    whole = text(tables.score_table(WHOLE))
    assert "37.5" in whole
    assert "41.0" in whole


def test_chart_draws_every_task(tmp_path):
    figure = report.chart(WHOLE)
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["x", "y"]
    assert [bar.get_width() for bar in axes.patches] == [0.5, 0.25]
    assert "0.375" in axes.get_title()
    figure.savefig(tmp_path / "a.png")
    report.chart(SCORES).savefig(tmp_path / "b.png")


def test_flat():
    assert report.logged_scores(SCORES) == {"b/x": 0.5, "b/y": 0.25, "b/one": 0.5}
    assert report.logged_scores(WHOLE)["b/overall"] == 0.375
    assert report.logged_scores(WHOLE)["b/IND"] == 0.41


def test_git_commit_says_dirty(monkeypatch, tmp_path):
    def git(*args):
        as_someone = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e"]
        subprocess.run([*as_someone, *args], check=True, capture_output=True)

    monkeypatch.setattr(commit, "PACKAGE", tmp_path)
    assert commit.git_commit() is None
    git("init")
    (tmp_path / "file").write_text("a")
    git("add", ".")
    git("commit", "-m", "m")
    clean = commit.git_commit()
    assert len(clean) == 40
    (tmp_path / "file").write_text("b")
    assert commit.git_commit() == f"{clean}-dirty"


@pytest.fixture
def arms(tmp_path):
    for index, (_, folder) in enumerate(demo.ARMS.values()):
        if folder is not None:
            scores = copy.deepcopy(WHOLE)
            scores["overall"] = score(0.1 * index)
            (tmp_path / folder).mkdir()
            (tmp_path / folder / "results.json").write_text(json.dumps(scores))
    return tmp_path


def test_demo_collects(arms, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["demo", str(arms)])
    demo.main()
    results = json.loads((arms / "results.json").read_text())
    assert list(results) == list(demo.ARMS)
    assert results["chance"] == {"overall": 0.1, "ci95": [0.1, 0.1], "tasks": {"x": 0.1, "y": 0.1}}
    assert results["zero_shot_system"]["overall"] == pytest.approx(0.3)
    assert results["zero_shot_system"]["tasks"] == {"x": 0.5, "y": 0.25}
    assert (arms / "demo.png").stat().st_size > 10_000
    assert "hierarchical" in capsys.readouterr().out


def test_demo_refuses_what_cannot_be_compared(arms, monkeypatch):
    path = arms / "zero_shot_suffix" / "results.json"
    other = json.loads(path.read_text())
    other["tasks"]["x"]["queries"] = 9
    path.write_text(json.dumps(other))
    with pytest.raises(UserError, match="run on different tasks or queries"):
        demo.collect(arms)
    path.unlink()
    with pytest.raises(UserError, match=r"arm zero_shot_suffix has no results: .*is missing; run `make demo`"):
        demo.collect(arms)
    monkeypatch.setattr("sys.argv", ["demo", str(arms)])
    with pytest.raises(SystemExit, match="error: the demo's arm"):
        demo.main()


# --- comparing runs -------------------------------------------------------------------------------------------------


@pytest.fixture
def runs(tmp_path):
    for miner, values in {"a": (0.2, 0.3, 0.4), "b": (0.5, 0.5, 0.5)}.items():
        for seed, value in enumerate(values):
            scores = copy.deepcopy(WHOLE)
            scores["overall"] = score(value)
            mining = {"_target_": f"x.{miner}", "seed": seed, **({"m": 3} if miner == "a" else {})}
            config = {"seed": seed, "output_dir": f"{miner}{seed}", "mining": mining, "lr": 1}
            (tmp_path / f"{miner}{seed}").mkdir()
            results = {**scores, "manifest": {"config": config}}
            (tmp_path / f"{miner}{seed}" / "results.json").write_text(json.dumps(results))
    return tmp_path


def test_compare_takes_seeds_together(runs, capsys):
    named = compare.group_by_arm(compare.read_runs(runs))
    assert {arm: len(its) for arm, its in named.items()} == {("mining=a",): 3, ("mining=b",): 3}
    mean, half = compare.mean_interval([0.2, 0.3, 0.4])
    assert mean == pytest.approx(0.3)
    assert half == pytest.approx(4.3027 * 0.1 / 3**0.5, rel=1e-4)  # Student's t with 2 degrees of freedom
    assert command(["compare", str(runs)]) == 0
    shown = capsys.readouterr().out
    assert "30.0 ± 24.8" in shown
    assert "50.0 ± 0.0" in shown
    assert (runs / "scores.png").stat().st_size > 5000
    assert not (runs / "curves.png").exists()  # nothing was logged


@pytest.mark.parametrize("kept", [["a0"], ["a0", "b0", "b1"]])
def test_compare_of_one_seed_has_no_interval(runs, capsys, kept):
    for path in runs.glob("*/results.json"):
        if path.parent.name not in kept:
            path.unlink()
    assert compare.mean_interval([0.2]) == (0.2, None)
    assert compare.mean_interval([0.2, 0.2]) == (0.2, 0.0)
    assert command(["compare", str(runs)]) == 0
    shown = capsys.readouterr().out
    assert "nan" not in shown
    assert ("±" in shown.partition("arm")[2]) == (len(kept) > 1)  # of the arm that has two
    assert "seed=1,2,3" in shown


def test_compare_by_one_setting(runs, capsys):
    """A seed's score is the mean over the other settings."""
    for path in runs.glob("*/results.json"):
        results = json.loads(path.read_text())
        results["manifest"]["config"]["lr"] = 2
        results["overall"] = score(results["overall"]["precision@1"] + 0.1)
        path.with_name("other").mkdir()
        (path.parent / "other/results.json").write_text(json.dumps(results))
    read = compare.read_runs(runs)
    assert len(compare.group_by_arm(read)) == 4
    assert command(["compare", str(runs), "--by", "mining"]) == 0
    shown = capsys.readouterr().out
    assert "35.0 ± 24.8" in shown
    assert "55.0 ± 0.0" in shown
    lines = (runs / "scores.csv").read_text().splitlines()
    assert len(lines) == 13
    assert lines[0].startswith("lr,mining,seed,commit,overall,")
    assert lines[1].startswith("1,a,0,,0.200000,")
    with pytest.raises(UserError, match="the runs do not differ in data, but in lr, mining"):
        compare.group_by_arm(read, ["data"])


def test_compare_names_the_choice_of_a_group(runs):
    """Where that choice alone decides its keys; what it does not decide is told, too."""
    for path in runs.glob("*/results.json"):
        results, name = json.loads(path.read_text()), path.parent.name
        choices = {"mining": f"{name[0]}_paper", "prompt": "long" if name[0] == "a" else "none"}
        (path.parent / ".hydra").mkdir()
        (path.parent / ".hydra/hydra.yaml").write_text(json.dumps({"hydra": {"runtime": {"choices": choices}}}))
        results["manifest"]["config"]["prompt"] = {"system": "x" * 99 if name[0] == "a" else "", "n": int(name[1]) // 2}
        path.write_text(json.dumps(results))
    named = compare.group_by_arm(compare.read_runs(runs))
    assert {arm: len(its) for arm, its in named.items()} == {
        ("mining=a_paper", "prompt.n=0", "prompt=long"): 2,
        ("mining=a_paper", "prompt.n=1", "prompt=long"): 1,
        ("mining=b_paper", "prompt.n=0", "prompt=none"): 2,
        ("mining=b_paper", "prompt.n=1", "prompt=none"): 1,
    }
    assert len(compare.group_by_arm(compare.read_runs(runs), ["prompt"])) == 2


def test_compare_shows_tasks_where_averages_lack_some(runs, capsys):
    for path in runs.glob("*/results.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), **copy.deepcopy(SCORES)}))
    assert command(["compare", str(runs)]) == 0
    assert re.search(r"arm +┃ seeds ┃ +one ┃ +y ┃", capsys.readouterr().out)
    assert (runs / "scores.csv").read_text().splitlines()[1].endswith(",0.500000,0.250000")


def test_compare_draws_what_was_logged(runs):
    """The mean over seeds at the steps that all of them have; seeds of the data may follow the run's."""
    for number, folder in enumerate(sorted(path for path in runs.iterdir() if path.is_dir())):
        lines = ["loss,step,world/x", f"{number}.0,10,", f"{number}.5,20,", *["9,30,"] * (number == 0), ",0,0.5"]
        (folder / "metrics.csv").write_text("\n".join(lines))
        results = json.loads((folder / "results.json").read_text())
        results["manifest"]["config"]["data"] = {"seed": number}
        (folder / "results.json").write_text(json.dumps(results))
    named = compare.group_by_arm(compare.read_runs(runs))
    assert set(named) == {("mining=a",), ("mining=b",)}
    (axes,) = compare.curves_chart(named).axes
    drawn = [line.get_xydata().tolist() for line in axes.lines]
    assert drawn == [[[10, 1], [20, 1.5]], [[10, 4], [20, 4.5]]]
    assert command(["compare", str(runs)]) == 0
    assert (runs / "curves.png").stat().st_size > 5000


def test_compare_refuses(runs, tmp_path, capsys):
    with pytest.raises(UserError, match="holds no run's results"):
        compare.read_runs(tmp_path / "nowhere")
    path = runs / "a0" / "results.json"
    other = json.loads(path.read_text())
    other["tasks"]["x"]["queries"] = 9
    path.write_text(json.dumps(other))
    assert command(["compare", str(runs)]) == 1
    assert "evaluated on different tasks or queries" in capsys.readouterr().err
