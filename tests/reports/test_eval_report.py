"""The evaluation report: its figures against loops, what the page holds, comparisons, and the page in a browser."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from conftest import Fake, noise
from pages import Page, needs_browser, opened

from gen2embed import UserError
from gen2embed.__main__ import main
from gen2embed.config.presets import PACKAGE
from gen2embed.data.mmeb import read_custom
from gen2embed.encoding.engine import Engine
from gen2embed.evaluation.evaluate import evaluate
from gen2embed.evaluation.significance import holm, mcnemar
from gen2embed.outputs import redacted
from gen2embed.reports.evaluation import explorer
from gen2embed.reports.evaluation.page import write_report
from gen2embed.reports.evaluation.results import read_runs
from gen2embed.reports.evaluation.tables import make_table
from gen2embed.reports.html import shortened
from gen2embed.reports.svg import svg
from gen2embed.runs import results as report

HACK = "</script><script>document.title = 'hacked'</script><img src=x onerror=\"document.title = 'hacked'\">"
KINDS, QUERIES, CHOICES = 12, 30, 8


class Kinds(Fake):
    """Embeds an item by the kind that its text names, as `#3`, and noise of its own."""

    def __init__(self, spread, seed=0):
        self.spread, self.seed, self.fingerprint = spread, seed, {}

    def embed(self, items, role):
        return torch.stack([self._vector(" ".join(item.texts)) for item in items])

    def _vector(self, text):
        random = np.random.default_rng([self.seed, *text.encode("utf-8", "surrogatepass")])
        vector = np.eye(KINDS)[int(re.search(r"#(\d+)", text)[1])] + self.spread * random.normal(size=KINDS)
        return torch.tensor(vector / np.linalg.norm(vector), dtype=torch.float32)


def leave_tasks(folder):
    """Two tasks, in which some texts are markup; one has pictures, of which two files are alike."""
    folder.mkdir()
    for number in range(KINDS):
        noise(min(number, KINDS - 2), (240, 120)).save(folder / f"{number}.png")
    random = np.random.default_rng(0)
    for task, pictured in (("texts", False), ("pictures", True)):
        rows = []
        for query in range(QUERIES):
            kinds = random.permutation(KINDS)[:CHOICES].tolist()
            picture = f"{kinds[0]}.png" if pictured else ""
            text = f"{HACK if query == 3 else 'find'} #{kinds[0]} in {query}"
            texts = [f"{HACK} #{kind}" if kind == 5 else f"thing #{kind}" for kind in kinds]
            images = [f"{kind}.png" if pictured else "" for kind in kinds]
            rows.append({"qry_text": text, "qry_img_path": picture, "tgt_text": texts, "tgt_img_path": images})
        (folder / f"{task}.jsonl").write_text("\n".join(map(json.dumps, rows)))


def leave_run(folder, tasks, spread=0.4, seed=0, name="kinds", **more):
    """What eval.py leaves of a run on these tasks."""
    call = {"_target_": "gen2embed.data.mmeb.read_custom", "annotations": str(tasks), "name": name}
    prompt = {"convention": "native", "system": {"query": "Sum it up.", "candidate": "Sum it up."}, "suffix": {}}
    resolution = {"policy": "clamp", "min_pixels": None, "max_pixels": 5000, "backend": "pil"}
    made = {"model": "weights:1", "adapter": None, "prompt": prompt, "resolution": resolution, "dtype": "float32"}
    config = {"benchmark": call, "model": {"path": "some/model"}, "checkpoint": None, "seed": seed, "lr": spread}
    benchmark = read_custom(tasks, name=name)
    evaluation = evaluate(Kinds(spread, seed), Engine(64), benchmark, 100)
    manifest = report.manifest(config, made, report.timing((), 12.0))
    report.write_results(folder, {**evaluation.scores, **more}, evaluation.predictions, manifest)
    return benchmark


@pytest.fixture(scope="session")
def left(tmp_path_factory):
    """Tasks, and two runs on them."""
    folder = tmp_path_factory.mktemp("left")
    leave_tasks(folder / "tasks")
    leave_run(folder / "good", folder / "tasks", 0.25)
    leave_run(folder / "bad", folder / "tasks", 0.6)
    return folder


@pytest.fixture(scope="session")
def page(left):
    write_report([left / "good"], left / "good.html", 20)
    return Page((left / "good.html").read_text())


@pytest.fixture(scope="session")
def both(left):
    write_report([left / "bad", left / "good"], left / "both.html", 20)
    return Page((left / "both.html").read_text())


def shown(page):
    """What the explorer is given."""
    return json.loads(page.scripts[0])


def said(page):
    return " ".join(" ".join(page.pieces).split())


def results(folder):
    return json.loads((folder / "results.json").read_text())


# --- the page -------------------------------------------------------------------------------------------------------


def test_page(page, left):
    scores = results(left / "good")
    assert 0.3 < scores["overall"]["precision@1"] < 1
    text = said(page)
    commit = (scores["manifest"]["git_commit"] or "none")[:12]
    for part in ("benchmark kinds", "model some/model", "adapter none", "prompt system, native convention", commit):
        assert part in text
    assert "resolution clamp, max_pixels 5000, backend pil" in text
    assert "system, query: Sum it up." in text
    assert f"date {scores['manifest']['date'][:16].replace('T', ' ')} UTC" in text
    for score in (*scores["tasks"].values(), scores["groups"]["kinds"], scores["overall"]):
        low, high = (f"{100 * its:.1f}" for its in score["ci95"])
        its = [score[key] for key in ("chance", "pessimistic", "recall@5", "recall@10", "mrr")]
        cells = " ".join(f"{100 * value:.1f}" for value in its)
        assert f"{100 * score['precision@1']:.1f} {low} – {high} {cells}" in text
    assert f"{100 * scores['overall']['precision@1']:.1f} % 95 % interval" in text
    assert "chosen at random (seed 0): 75% of them wrong ones" in text


def test_page_is_accessible(page, both):
    for its in (page, both):
        assert its.of("html") == [{"lang": "en"}]
        assert its.tags["title"] == its.tags["h1"] == its.tags["main"] == 1
        assert its.tags["caption"] == its.tags["table"] > 1
        assert all("scope" in attributes for attributes in its.of("th") if attributes)
        assert its.tags["svg"] > 2
        assert all(attributes["role"] == "img" and attributes["aria-label"] for attributes in its.of("svg"))
        names = [attributes["aria-label"] for attributes in its.of("svg")]
        assert len(set(names)) == len(names)
        labelled = {attributes["for"] for attributes in its.of("label")}
        controls = {attributes["id"] for tag in ("select", "input") for attributes in its.of(tag)}
        assert labelled == controls >= {"task", "outcome", "rank", "text"}
        ids = [attributes["id"] for _, attributes in its.elements if "id" in attributes]
        assert len(set(ids)) == len(ids)


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def test_contrast():
    """WCAG 2, AA: 4.5 for text, 3 for the borders of controls; in both themes."""
    style = (PACKAGE / "reports/base.html").read_text()
    themes = [
        dict(re.findall(r"--([\w-]+): (#\w+);", block)) for block in re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    ]
    assert len(themes) == 2
    grounds = ("ground", "card")
    pairs = [(ink, ground, 4.5) for ink in ("ink", "soft", "link", "own", "warn") for ground in grounds]
    pairs += [("own", "own-ground", 4.5), ("warn", "warn-ground", 4.5), *(("control", ground, 3) for ground in grounds)]
    for theme in themes:
        colours = {name: "#" + 2 * value[1:] if len(value) == 4 else value for name, value in theme.items()}
        for ink, ground, least in pairs:
            dark, light = sorted((luminance(colours[ink]), luminance(colours[ground])))
            assert (light + 0.05) / (dark + 0.05) >= least, (ink, ground)


def test_page_asks_no_network(page, both):
    for its in (page, both):
        assert its.outside() == []
        (policy,) = (its["content"] for its in its.of("meta") if its.get("http-equiv"))
        assert "default-src 'none'" in policy
        assert "script-src 'sha256-" in policy
        assert its.text.count("http") == 1  # of the policy's own attribute


def test_texts_are_escaped(page, both):
    for its in (page, both):
        assert its.tags["script"] == 2
        assert "onerror" not in dict(its.attributes)
        assert HACK not in its.text
        texts = [part["text"] for item in shown(its)["items"] for part in item if "text" in part]
        assert f"{HACK} #5" in texts


def test_chart_names_are_escaped():
    drawn = svg(lambda axes: axes.set_xlabel('$a$ <b> & "'), '<script> & "quoted"')
    assert 'aria-label="&lt;script&gt; &amp; &quot;quoted&quot;"' in drawn
    assert '$a$ &lt;b&gt; &amp; "' in drawn


def test_report_again_is_the_same(left, page, capsys):
    """From a run's folder alone."""
    assert main(["report", str(left / "good")]) == 0
    assert (left / "good" / "report.html").read_text() == page.text
    assert "good/report.html written" in capsys.readouterr().out
    benchmark = read_custom(left / "tasks", name="kinds")
    write_report([left / "good"], left / "again.html", 20, benchmarks=[benchmark])
    assert (left / "again.html").read_text() == page.text


# --- the explorer ---------------------------------------------------------------------------------------------------


def test_explorer_against_the_predictions(page, left):
    benchmark = read_custom(left / "tasks", name="kinds")
    its, (run,) = shown(page), read_runs([left / "good"])

    def parts(item):
        shapes = {"text": lambda part: part["text"], "picture": lambda part: part["name"]}
        return [shapes[next(kind for kind in shapes if kind in part)](part) for part in its["items"][item]]

    def told(item):
        given = [part if isinstance(part, str) else str(part).rpartition("/")[2] for part in item.parts]
        return [shortened(part, explorer.TEXT) if part in item.texts else part for part in given]

    assert [task["name"] for task in its["tasks"]] == [task.name for task in benchmark.tasks]
    assert len(its["queries"]) == 40
    for query in its["queries"]:
        task, number = benchmark.tasks[query["task"]], query["query"]
        predicted = run.results["kinds"].predictions[task.name]
        (answers,) = query["runs"]
        assert parts(query["item"]) == told(task.queries[number])
        assert [parts(item) for item in query["right"]] == [told(task.candidates[task.choices[number][0]])]
        assert answers["rank"] == predicted["rank"][number]
        assert answers["correct"] == predicted["correct"][number] == (answers["rank"] == 1)
        for (item, similarity, right), choice, value in zip(
            answers["top"], predicted["top"][number], predicted["top_similarities"][number], strict=True
        ):
            assert parts(item) == told(task.candidates[task.choices[number][choice]])
            assert similarity == pytest.approx(value, abs=1e-4)
            assert right == (choice == 0)
    files = {part["name"] for item in its["items"] for part in item if "name" in part}
    assert len(files) == KINDS
    assert len(its["pictures"]) == KINDS - 1  # two files are alike


def test_choice_of_queries():
    correct = np.arange(100) % 4 != 0  # 25 are wrong
    columns = [{"correct": correct}]

    def chosen(count, seed=0, given=columns):
        return explorer.choose_queries(given, count, np.random.default_rng(seed))

    assert [sum(~correct[chosen(count)]) for count in (1, 4, 20, 40, 80)] == [1, 3, 15, 25, 25]
    assert [len(chosen(count)) for count in (1, 4, 20, 40, 80, 200)] == [1, 4, 20, 40, 80, 100]
    assert chosen(20) == chosen(20) == sorted(set(chosen(20))) != chosen(20, seed=1)
    assert len(chosen(20, given=[{"correct": np.zeros(100, bool)}])) == 20
    two = [{"correct": correct}, {"correct": np.arange(100) % 4 != 1}]
    assert sum(index % 4 in (0, 1) for index in chosen(20, given=two)) == 15  # wrong in any run


def test_no_queries_need_no_benchmark(left, tmp_path):
    tasks = tmp_path / "tasks"
    shutil.copytree(left / "tasks", tasks)
    leave_run(tmp_path / "run", tasks)
    shutil.rmtree(tasks)
    write_report([tmp_path / "run"], tmp_path / "report.html", 0)
    page = Page((tmp_path / "report.html").read_text())
    assert page.tags["script"] == page.tags["form"] == 0
    assert "overall precision@1" in said(page)
    with pytest.raises(
        UserError, match=r"benchmark of run is not where its manifest says: .*tasks.*; relative paths .*--q"
    ):
        write_report([tmp_path / "run"], tmp_path / "report.html", 5)
    with pytest.raises(UserError, match=r"report_queries is a number of queries of each task, 0 for none; got -1"):
        write_report([tmp_path / "run"], tmp_path / "report.html", -1)


def test_changed_tasks_and_missing_pictures(left, tmp_path):
    tasks = tmp_path / "tasks"
    shutil.copytree(left / "tasks", tasks)
    leave_run(tmp_path / "run", tasks)
    (tasks / "3.png").unlink()
    with pytest.raises(UserError, match=r"1 of \d+ pictures are missing: .*3.png"):
        write_report([tmp_path / "run"], tmp_path / "report.html", 20)
    text = (tasks / "texts.jsonl").read_text()
    (tasks / "texts.jsonl").write_text(text.replace("thing #3", "object #3", 1))
    with pytest.raises(UserError, match=r"queries of benchmark kinds are no longer those that were evaluated"):
        write_report([tmp_path / "run"], tmp_path / "report.html", 20)
    assert not (tmp_path / "report.html").exists()


# --- several runs, several benchmarks -------------------------------------------------------------------------------


def test_comparison(both, left):
    first, second = (run.results["kinds"] for run in read_runs([left / "bad", left / "good"]))
    table = make_table([first, second], 0)
    ps = []
    for row in table.tasks:
        scores = [result.scores["tasks"][row.name]["precision@1"] for result in (first, second)]
        assert row.compared[0].difference.mean == pytest.approx(scores[1] - scores[0])
        assert row.compared[0].difference.low < scores[1] - scores[0] < row.compared[0].difference.high
        ps.append(mcnemar(first.outcomes[row.name], second.outcomes[row.name]))
    assert [row.compared[0].p for row in table.tasks] == holm(ps) != ps
    overall = table.overall.compared[0]
    assert overall.p == overall.difference.p < 0.05
    assert overall.significant
    text = said(both)
    difference = f"+{100 * overall.difference.mean:.1f}"
    assert f"{difference} +{100 * overall.difference.low:.1f} to +{100 * overall.difference.high:.1f}" in text
    assert "corrected by Holm's rule for the 2 tasks" in text
    assert "lr 0.6 0.25" in text  # the setting that differs
    assert shown(both)["runs"] == ["bad", "good"]
    assert all(len(query["runs"]) == 2 for query in shown(both)["queries"])


def test_outcomes_are_those_of_the_scores(left):
    (run,) = read_runs([left / "good"])
    result = run.results["kinds"]
    for name, its in result.scores["tasks"].items():
        assert result.outcomes[name].mean() == pytest.approx(its["precision@1"])


def test_refuses_what_cannot_be_paired(left, tmp_path):
    def other(change):
        shutil.rmtree(tmp_path / "other", ignore_errors=True)
        shutil.copytree(left / "good", tmp_path / "other")
        its = results(tmp_path / "other")
        change(its)
        (tmp_path / "other" / "results.json").write_text(json.dumps(its))
        return [left / "bad", tmp_path / "other"]

    with pytest.raises(UserError, match=r"bad and other cannot be .*: kinds's task texts is in bad only"):
        read_runs(other(lambda its: its["tasks"].pop("texts")))
    with pytest.raises(UserError, match=r"kinds's task texts has other queries or candidates"):
        read_runs(other(lambda its: its["tasks"]["texts"].update(digest="0")))
    with pytest.raises(UserError, match=r"benchmark kinds is in bad only; benchmark x is in other only"):
        read_runs(other(lambda its: its.update(benchmark="x")))
    with pytest.raises(
        UserError, match=r"predictions.parquet is not of the results.json beside it: task texts differs"
    ):
        read_runs(other(lambda its: its["tasks"]["texts"].update(queries=9)))
    with pytest.raises(UserError, match=r"results.json holds no evaluation's results"):
        read_runs(other(lambda its: its.pop("manifest")))
    fewer = tmp_path / "tasks"
    shutil.copytree(left / "tasks", fewer)
    (fewer / "texts.jsonl").write_text("\n".join((fewer / "texts.jsonl").read_text().splitlines()[1:]))
    leave_run(tmp_path / "fewer", fewer)
    with pytest.raises(UserError, match=r"kinds's task texts has 30 and 29 queries"):
        read_runs([left / "bad", tmp_path / "fewer"])


def test_command_refuses(left, capsys, tmp_path):
    def refused(*args):
        assert main(["report", *map(str, args)]) == 1
        return capsys.readouterr().err

    assert "nowhere holds no results.json" in refused(tmp_path / "nowhere")
    assert re.search(r"error: several runs .* set --output FILE.html", refused(left / "good", left / "bad"))
    assert re.search(
        r"error: a run is named twice", refused(left / "good", left / "good", "--output", tmp_path / "x.html")
    )


def test_several_benchmarks(left, tmp_path):
    folder, every = tmp_path / "run", {}
    benchmarks = [leave_run(folder / name, left / "tasks", name=name) for name in ("one", "<b>two")]
    for benchmark in benchmarks:
        every[benchmark.name] = {"overall": None}
    redacted.write_json(folder / "results.json", {"benchmarks": every})
    write_report([folder], folder / "report.html", 4, benchmarks=benchmarks)
    page = Page((folder / "report.html").read_text())
    assert [task["benchmark"] for task in shown(page)["tasks"]] == ["one", "one", "<b>two", "<b>two"]
    assert "<b>two: texts" in said(page)
    assert "Scores of one, in percent" in said(page)
    (run,) = read_runs([folder])
    assert list(run.results) == ["one", "<b>two"]


def test_compression(left, tmp_path):
    entries = [
        {"dim": dim, "precision": precision, "bytes": dim * size, "precision@1": dim / 100, "groups": {}}
        for dim in (32, 64)
        for precision, size in (("float32", 4), ("int8", 1))
        if (dim, precision) != (32, "int8")
    ]
    leave_run(tmp_path / "run", left / "tasks", compression=entries)
    write_report([tmp_path / "run"], tmp_path / "report.html", 0)
    page = Page((tmp_path / "report.html").read_text())
    assert "dimension float32 bytes int8 bytes 64 64.0 256 64.0 64 32 32.0 128 – –" in said(page)
    assert any("Score over dimension" in attributes["aria-label"] for attributes in page.of("svg"))


# --- in a browser ---------------------------------------------------------------------------------------------------


@needs_browser
def test_the_browser_test_sees(tmp_path):
    bad = tmp_path / "bad.html"
    bad.write_text('<title>a</title><img src="http://a.invalid/b.png"><script>document.title = "b"; nothing()</script>')
    its = opened(bad)
    assert its.requests == ["http://a.invalid/b.png"]
    assert "nothing is not defined" in its.console[0]
    assert "<title>b</title>" in its.text


def cards(page):
    """Titles of the queries that are shown."""
    return re.findall(r"<h3>(\w+) · query (\d+)</h3>", page.text)


@needs_browser
def test_in_a_browser(page, left):
    its = opened(left / "good.html")
    assert (its.console, its.requests) == ([], [])
    assert "<title>Evaluation report: kinds</title>" in its.text  # nothing that texts hold has run
    assert "40 of 40 queries" in its.said
    assert "page 1 of 4" in its.said
    assert len(cards(its)) == 12
    images = [attributes for attributes in its.of("img") if attributes["src"].startswith("data:")]
    assert len(its.of("img")) == len(images)
    assert f"{HACK} #5" in its.said


@needs_browser
def test_filters_in_a_browser(page, left):
    data = shown(page)

    def expected(passes):
        found = [query for query in data["queries"] if passes(query, query["runs"][0])]
        return [(data["tasks"][query["task"]]["name"], str(query["query"])) for query in found]

    pictures = [task["name"] for task in data["tasks"]].index("pictures")
    wrong = expected(lambda query, run: query["task"] == pictures and not run["correct"])
    its = opened(left / "good.html", "task=pictures&outcome=wrong")
    assert 0 < len(wrong) < 20
    assert cards(its) == wrong[:12]
    assert f"{len(wrong)} of 40 queries" in its.said
    far = expected(lambda _, run: 2 <= run["rank"] <= 5)
    assert 0 < len(far) < 40
    assert cards(opened(left / "good.html", "rank=2-5")) == far[:12]
    named = expected(lambda query, _: any("in 1" in part.get("text", "") for part in data["items"][query["item"]]))
    assert 0 < len(named) < 40
    assert cards(opened(left / "good.html", "text=IN+1")) == named[:12]
    every = expected(lambda *_: True)
    driven = opened(left / "good.html", "task=unknown&page=2", "document.getElementById('next').click()")
    assert driven.console == []
    assert cards(driven) == every[24:36]


@needs_browser
def test_comparison_in_a_browser(both, left):
    data = shown(both)
    differ = [query for query in data["queries"] if len({run["correct"] for run in query["runs"]}) == 2]
    its = opened(left / "both.html", "outcome=differs")
    assert f"{len(differ)} of 40 queries" in its.said
    assert its.console == []
    good = [query for query in data["queries"] if query["runs"][1]["correct"]]
    assert f"{len(good)} of 40 queries" in opened(left / "both.html", "run=good&outcome=right").said
    typed = "filters.text.value = 'in 7'; filters.text.dispatchEvent(new Event('input', {bubbles: true})); "
    driven = opened(left / "both.html", "outcome=differs", typed + "document.title = location.hash")
    assert "<title>#outcome=differs&amp;text=in+7</title>" in driven.text
