"""The public benchmarks in their own layouts, and your own files: what is read, how it is scored, what is refused."""

import csv
import json
import random
import re
import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import Fake
from omegaconf import OmegaConf
from PIL import Image

from examples.rehearsal.stand_ins import write_mmeb_eval, write_mmeb_train, write_sugarcrepe
from gen2embed import UserError
from gen2embed.config.presets import conf_dir
from gen2embed.data.benchmark import Benchmark, task_digest
from gen2embed.data.locate import locate_pictures
from gen2embed.data.mmeb import read_custom, read_mmeb
from gen2embed.data.pairs import Files, Mmeb
from gen2embed.data.sugarcrepe import CAPTION, read_sugarcrepe, read_sugarcrepe_pp
from gen2embed.encoding.engine import Engine
from gen2embed.evaluation.evaluate import evaluate
from gen2embed.types import ImagePart, Item, RankingTask

MMEB, SUGAR, SUGAR_PP, TRAIN = (
    OmegaConf.to_container(OmegaConf.load(conf_dir() / f"{name}.yaml"), resolve=False)
    for name in ("benchmark/mmeb", "benchmark/sugarcrepe", "benchmark/sugarcrepe_pp", "data/mmeb")
)
SUBSETS = [subset for subsets in SUGAR["groups"].values() for subset in subsets]


@pytest.fixture(scope="module")
def public(tmp_path_factory):
    """Every public dataset, as users have it on disk."""
    folder = tmp_path_factory.mktemp("public")
    write_mmeb_train(folder / "MMEB-train", TRAIN["subsets"], rows=6)
    write_mmeb_eval(folder / "MMEB-eval", MMEB["groups"], queries=3, candidates=4)
    write_sugarcrepe(folder, SUBSETS, SUGAR_PP["subset_names"], rows=12)
    return folder


@pytest.fixture
def copy(public, tmp_path):
    """A copy to be spoilt."""
    return shutil.copytree(public, tmp_path / "public")


class Given(Fake):
    """Embeds each text, or picture's name, as a vector drawn for it; some share one."""

    fingerprint = {"model": "given"}  # noqa: RUF012

    def __init__(self, share=1):
        self.share, self.seen = share, []

    def vector(self, item, role):
        self.seen.append((role, item.key))
        rng = random.Random(f"{hash_of(item) % self.share if self.share > 1 else hash_of(item)}")
        return [rng.choice((-1.0, 0.0, 1.0)) for _ in range(4)]

    def embed(self, items, role):
        return torch.tensor([self.vector(item, role) for item in items])


def hash_of(item):
    content = "".join(part if isinstance(part, str) else part.source.name for part in item.parts)
    return random.Random(content).randrange(10**9)


# --- MMEB -----------------------------------------------------------------------------------------------------------


def test_mmeb_is_described_as_published():
    tasks = [task for members in MMEB["groups"].values() for task in members]
    assert {group: len(members) for group, members in MMEB["groups"].items()} == {
        "classification": 10, "vqa": 10, "retrieval": 12, "grounding": 4
    }  # fmt: skip
    assert len(set(tasks)) == 36
    ind, ood = MMEB["averages"].values()
    assert (len(ind), len(ood)) == (20, 16)
    assert sorted(ind + ood) == sorted(tasks)
    assert len(TRAIN["subsets"]) == len(set(TRAIN["subsets"])) == 20
    assert {name.replace("ImageNet_1K", "ImageNet-1K") for name in TRAIN["subsets"]} == set(ind)


def fixed_task(name, group, right, queries=1000):
    """A task whose first `right` queries rank their positive first."""
    vectors = tuple(Item.create(text) for text in ("1 0", "0 1"))
    choices = tuple((0, 1) if index < right else (1, 0) for index in range(queries))
    return RankingTask(name, group, (vectors[0],) * queries, vectors, choices, ((1.0, 0.0),) * queries)


class Spelled(Given):
    def vector(self, item, role):
        return [float(x) for x in item.texts[0].split()]


def test_the_published_averages():
    """IND 76.4 and OOD 67.4, over 20 and 16 tasks, are 72.4 overall: arXiv 2508.00955, 7B."""
    group_of = {task: group for group, members in MMEB["groups"].items() for task in members}
    ind, ood = MMEB["averages"].values()
    wobble = {name: 10 * (index % 2) - 5 for members in (ind, ood) for index, name in enumerate(members)}
    tasks = tuple(fixed_task(name, group_of[name], (764 if name in ind else 674) + wobble[name]) for name in group_of)
    scores = evaluate(Spelled(), Engine(), Benchmark("mmeb", tasks, MMEB["groups"], MMEB["averages"]), 10).scores
    assert scores["averages"]["IND"]["precision@1"] == pytest.approx(0.764)
    assert scores["averages"]["OOD"]["precision@1"] == pytest.approx(0.674)
    assert round(100 * scores["overall"]["precision@1"], 1) == 72.4
    assert scores["averages"]["IND"]["tasks"] == 20
    cls = [scores["tasks"][name]["precision@1"] for name in MMEB["groups"]["classification"]]
    assert scores["groups"]["classification"]["precision@1"] == pytest.approx(np.mean(cls))
    some = Benchmark("mmeb", tasks[:20], MMEB["groups"], MMEB["averages"])
    scores = evaluate(Spelled(), Engine(), some, 10).scores
    assert scores["groups"]["vqa"]
    assert scores["overall"] is scores["averages"]["IND"] is scores["groups"]["retrieval"] is None


def test_recall_and_reciprocal_rank_against_loops():
    rng = np.random.default_rng(0)
    vectors = tuple(Item.create(" ".join(map(str, rng.integers(-2, 3, size=3)))) for _ in range(60))
    choices = tuple(tuple(rng.permutation(40)[:25].tolist()) for _ in range(20))
    relevance = tuple((1.0, 1.0, *[0.0] * 23) for _ in range(20))
    task = RankingTask("a", "g", vectors[:20], vectors[20:], choices, relevance)
    task_scores = evaluate(Spelled(), Engine(), Benchmark("x", (task,), {"g": ["a"]}), 10).scores["tasks"]["a"]
    recalls, reciprocal = {5: [], 10: []}, []
    for query, row in zip(task.queries, choices, strict=True):
        read = [np.array([float(x) for x in item.texts[0].split()]) for item in (query, *task.candidates)]
        scores = [float(read[0] @ read[1 + choice]) for choice in row]
        worst_first = sorted(range(25), key=lambda i: (-scores[i], i < 2))  # wrong ones before right ones at a tie
        ranks = [worst_first.index(i) + 1 for i in (0, 1)]
        # a tie between the two right ones is no tie against the model
        ranks = [1 + sum(scores[j] >= scores[i] for j in range(2, 25)) + (scores[1 - i] > scores[i]) for i in (0, 1)]
        for k, values in recalls.items():
            values.append(np.mean([rank <= k for rank in ranks]))
        reciprocal.append(1 / (1 + sum(scores[j] >= max(scores[:2]) for j in range(2, 25))))
    assert task_scores["recall@5"] == pytest.approx(np.mean(recalls[5]))
    assert task_scores["recall@10"] == pytest.approx(np.mean(recalls[10]))
    assert task_scores["mrr"] == pytest.approx(np.mean(reciprocal))
    assert 0 < task_scores["recall@5"] < task_scores["recall@10"] < 1


def test_candidates_are_distinct_and_roles_as_published(public):
    folder = public / "MMEB-eval"
    benchmark = read_mmeb(str(folder), folder, MMEB["groups"], subsets=["RefCOCO-Matching", "RefCOCO"],
                          candidates_as_queries=MMEB["candidates_as_queries"])  # fmt: skip
    assert [(task.name, task.candidate_role) for task in benchmark.tasks] == [
        ("RefCOCO", "candidate"), ("RefCOCO-Matching", "query")
    ]  # fmt: skip
    text = read_mmeb(str(folder), folder, MMEB["groups"], subsets=["ImageNet-1K"]).tasks[0]
    named = {text.candidates[choice].texts for row in text.choices for choice in row}
    assert len(text.candidates) == len(named) < sum(map(len, text.choices))
    for row, relevance in zip(text.choices, text.relevance, strict=True):
        assert relevance.tolist() == [1.0] + [0.0] * (len(row) - 1)


def eval_rows(folder, task, **columns):
    """Replace columns of a task's first rows."""
    (file,) = (folder / "MMEB-eval" / task).glob("test-*.parquet")
    rows = pq.read_table(file).to_pylist()
    for name, values in columns.items():
        for row, value in zip(rows, values, strict=False):
            row[name] = value
    pq.write_table(pa.Table.from_pylist(rows), file)
    return rows


def test_markers_empty_texts_and_empty_targets(copy, tiny, caplog):
    """WebQA's marker without a picture; a picture without a text; an empty text among the wrong targets."""
    caplog.set_level("INFO")
    folder = copy / "MMEB-eval"
    eval_rows(copy, "WebQA", qry_text=["<|image_1|>\nwho?"] * 3, qry_img_path=[""] * 3)
    eval_rows(
        copy, "ChartQA", qry_text=["", "what?", "what?"], tgt_text=[["a", "", "b"]] * 3, tgt_img_path=[[""] * 3] * 3
    )
    web, chart = read_mmeb(str(folder), folder, MMEB["groups"], subsets=["WebQA", "ChartQA"]).tasks[::-1]
    assert web.queries[0].texts == ("<|image_1|>\nwho?",)
    assert chart.queries[0].parts == chart.queries[0].pictures
    assert chart.candidates[1].parts == ("",)
    assert "ChartQA has an empty text among its candidates" in caplog.text
    vectors = tiny.encode(chart.candidates, "candidate")
    assert (vectors[:, None] - vectors).norm(dim=-1)[1, [0, 2]].min() > 1e-3


LAYOUTS = {
    "as it is": lambda folder: folder,
    "a folder more": lambda folder: moved(folder, folder.parent / "more" / "unzipped").parent,
    "their first folder is the root": lambda folder: folder / "images",
}


def moved(folder, target):
    target.parent.mkdir(parents=True)
    folder.rename(target)
    return target


@pytest.mark.parametrize("layout", LAYOUTS)
def test_pictures_are_found_under_the_layouts_that_people_have(copy, layout):
    rows = copy / "MMEB-train"
    images = shutil.copytree(rows, copy / "unpacked")
    source = Mmeb(path=str(rows), image_dir=LAYOUTS[layout](images), subsets=["VisDial", "MSCOCO_t2i"])
    pictures = [picture.source for pair in source.pairs() for picture in pair.pictures]
    assert len(pictures) > 6
    assert all(path.is_file() for path in pictures)


def test_where_pictures_are_looked_for(tmp_path):
    for name in ("a/x.png", "b/y.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert locate_pictures(tmp_path, ["x.png", "y.png", "z.png"])("y.png") == tmp_path / "b" / "y.png"
    assert locate_pictures(tmp_path, ["a/x.png"])("a/q.png") == tmp_path / "a" / "q.png"
    assert locate_pictures(tmp_path / "none", [""])("x") == tmp_path / "none" / "x"
    with pytest.raises(UserError, match=r"the image folder .*none does not exist; set image_dir to where x.png lies"):
        locate_pictures(tmp_path / "none", ["x.png"])


def test_train_rows_split_and_cap(public):
    folder = public / "MMEB-train"
    source = Mmeb(path=str(folder), image_dir=folder, subsets=["VOC2007", "WebQA"], split="diverse_instruction",
                  max_rows_per_subset=4)  # fmt: skip
    assert [(pair.subset, pair.row) for pair in source.pairs()] == [
        (s, r) for s in ("VOC2007", "WebQA") for r in range(4)
    ]
    with pytest.raises(UserError, match="max_rows_per_subset is at least 1"):
        Mmeb(path=str(folder), image_dir=folder, subsets=["WebQA"], max_rows_per_subset=0)


@pytest.mark.parametrize("form", ["{}/test.jsonl", "{}.jsonl", "{}.parquet", "{}/test.parquet"])
def test_other_files_hold_the_same_rows(public, tmp_path, form):
    task = "GQA"
    table = pq.read_table(public / "MMEB-eval" / task / "test-00000-of-00001.parquet")
    file = tmp_path / form.format(task)
    file.parent.mkdir(exist_ok=True)
    if file.suffix == ".jsonl":
        file.write_text("\n".join(json.dumps(row) for row in table.to_pylist()))
    else:
        pq.write_table(table, file)
    images = public / "MMEB-eval"
    a, b = (read_mmeb(str(folder), images, MMEB["groups"], subsets=[task]).tasks[0] for folder in (images, tmp_path))
    assert [item.key for item in a.items()] == [item.key for item in b.items()]
    assert [row.tolist() for row in a.choices] == [row.tolist() for row in b.choices]


def test_shards_are_read_in_order(public, tmp_path):
    table = pq.read_table(public / "MMEB-train" / "CIRR" / "original-00000-of-00001.parquet")
    (tmp_path / "CIRR").mkdir()
    for shard in range(3):
        pq.write_table(table.slice(2 * shard, 2), tmp_path / "CIRR" / f"original-{shard:05}-of-00003.parquet")
    pairs = [Mmeb(path=str(at), image_dir=public / "MMEB-train", subsets=["CIRR"]).pairs()
             for at in (public / "MMEB-train", tmp_path)]  # fmt: skip
    assert [pair.query.key for pair in pairs[0]] == [pair.query.key for pair in pairs[1]]


# --- SugarCrepe, SugarCrepe++ ---------------------------------------------------------------------------------------


def naive(rows, vector):
    """Scores by subset: the definitions, a row at a time, in float32."""

    def s(a, b):
        return (vector(a) * vector(b)).sum()

    plain, itt, tot = [], [], []
    for row in rows:
        picture, caption, caption2 = row["filename"], row["caption"], row.get("caption2")
        wrong = row["negative_caption"]
        plain.append(s(picture, caption) > s(picture, wrong))
        if caption2:
            itt.append(s(picture, caption) > s(picture, wrong) and s(picture, caption2) > s(picture, wrong))
            tot.append(s(caption, caption2) > s(caption, wrong) and s(caption, caption2) > s(caption2, wrong))
    return [float(np.mean(values)) if values else None for values in (plain, itt, tot)]


@pytest.mark.parametrize("share", [1, 5])
def test_sugarcrepe_scoring_against_a_naive_oracle(tmp_path, share):
    """Random embeddings of few values, so that many comparisons are ties; with share, some items have one vector."""
    rng = random.Random(share)
    names = [f"{number}.jpg" for number in range(20)]
    rows = [
        {
            "id": number,
            "filename": rng.choice(names),
            "caption": f"c{rng.randrange(60)}",
            "caption2": f"d{rng.randrange(60)}",
            "negative_caption": f"c{rng.randrange(60)}",
        }
        for number in range(300)
    ]
    for number, name in enumerate(names):
        Image.new("RGB", (1, 1), (number * 9, 0, 0)).save(tmp_path / name)  # different, as their vectors are
    (tmp_path / "swap_att.json").write_text(json.dumps({str(row["id"]): row for row in rows}))
    vectors = {}

    def vector(text):
        item = Item((ImagePart(tmp_path / text),)) if text in names else Item.create(CAPTION.format(text))
        return vectors.setdefault(text, np.array(Given(share).vector(item, None), np.float32))

    plain, itt, tot = naive(rows, vector)
    model = Given(share)
    first = read_sugarcrepe(tmp_path, tmp_path, SUGAR["groups"], ["swap_att"])
    scores = evaluate(model, Engine(7), first, 50).scores
    assert scores["tasks"]["swap_att"]["precision@1"] == pytest.approx(plain)
    assert scores["tasks"]["swap_att"]["queries"] == 300
    assert scores["tasks"]["swap_att"]["chance"] == 0.5
    assert "recall@5" not in scores["tasks"]["swap_att"]
    assert len(model.seen) == len(set(model.seen))  # each distinct picture and caption once
    second = read_sugarcrepe_pp(tmp_path, tmp_path, SUGAR_PP["subset_names"], ["swap_att"])
    scores = evaluate(Given(share), Engine(7), second, 50).scores
    assert scores["tasks"]["swap_att_itt"]["precision@1"] == pytest.approx(itt)
    assert scores["tasks"]["swap_att_tot"]["precision@1"] == pytest.approx(tot)
    assert scores["tasks"]["swap_att_tot"]["queries"] == 300
    assert scores["tasks"]["swap_att_tot"]["chance"] == pytest.approx(1 / 3)
    ties = [(vector(r["filename"]) * (vector(r["caption"]) - vector(r["negative_caption"]))).sum() == 0 for r in rows]
    assert sum(ties) > 30
    predictions = evaluate(Given(share), Engine(7), second, 10).predictions.to_pylist()
    assert [row["row"] for row in predictions[:600]] == [n for n in range(300) for _ in range(2)]


def test_sugarcrepe_items_are_as_the_reference_has_them(public):
    benchmark = read_sugarcrepe(public / "sugar-crepe/data", public / "coco", SUGAR["groups"], resolution="original")
    task = benchmark.tasks[0]
    assert [task.name for task in benchmark.tasks] == SUBSETS
    assert (task.query_role, task.candidate_role, task.strict) == ("candidate", "query", True)
    assert task.queries[0].parts == task.queries[0].pictures
    assert task.candidates[0].texts[0].startswith("Find me an image that matches the given caption: ")
    assert benchmark.resolution == "original"
    pp = read_sugarcrepe_pp(public / "scpp/data", public / "coco/val2017", SUGAR_PP["subset_names"])
    assert {group: len(members) for group, members in pp.groups.items()} == {"itt": 5, "tot": 5}
    roles = {(task.group, task.query_role, task.candidate_role) for task in pp.tasks}
    assert roles == {("itt", "candidate", "query"), ("tot", "query", "query")}


def test_sugarcrepe_pp_of_texts_alone_needs_no_pictures(public, tmp_path):
    names = SUGAR_PP["subset_names"]
    both_parts = read_sugarcrepe_pp(public / "scpp/data", public / "coco/val2017", names)
    for subset in names:  # nor the names of pictures
        rows = json.loads((public / f"scpp/data/{subset}.json").read_text())
        (tmp_path / f"{subset}.json").write_text(json.dumps([{**row, "filename": ""} for row in rows]))
    alone = read_sugarcrepe_pp(tmp_path, tmp_path / "nowhere", names, parts=["tot"])
    assert not list(alone.pictures)
    assert [task.name for task in alone.tasks] == [f"{subset}_tot" for subset in names]
    expected = [task_digest(task) for task in both_parts.tasks if task.group == "tot"]
    assert [task_digest(task) for task in alone.tasks] == expected
    assert alone.groups == both_parts.groups  # so that there is an average of tot, and none of itt and overall
    pictured = read_sugarcrepe_pp(public / "scpp/data", public / "coco/val2017", names, parts=["itt"])
    assert {task.group for task in pictured.tasks} == {"itt"}
    with pytest.raises(UserError, match=r"txt.*itt, tot"):
        read_sugarcrepe_pp(tmp_path, tmp_path, names, parts=["txt"])
    with pytest.raises(UserError, match=r"benchmark\.parts=\[\]"):
        read_sugarcrepe_pp(tmp_path, tmp_path, names, parts=[])


# --- python eval.py -------------------------------------------------------------------------------------------------


def places(public, name=""):
    """Where the three benchmarks lie; with a name, as the keys of that one alone."""
    folders = {
        "mmeb": ("MMEB-eval", "MMEB-eval"),
        "sugarcrepe": ("sugar-crepe/data", "coco"),
        "sugarcrepe_pp": ("scpp/data", "coco"),
    }
    if name:
        rows, images = folders[name]
        return [f"benchmark.annotations={public / rows}", f"benchmark.image_dir={public / images}"]
    return [f"benchmark.{name}.{key}={public / folder}" for name, pair in folders.items()
            for key, folder in zip(("annotations", "image_dir"), pair, strict=True)]  # fmt: skip


@pytest.fixture
def run_eval(run_script, tmp_path):
    def run(*args):
        return run_script("eval.py", "output_dir=run", "bootstrap=20", "engine.store=null", *args)

    return run


def results(tmp_path, *below):
    return json.loads((tmp_path / "run" / "/".join(below) / "results.json").read_text())


def test_eval_mmeb(run_eval, public, tmp_path):
    outcome = run_eval("benchmark=mmeb", *places(public, "mmeb"))
    assert outcome.code == 0, outcome.err
    scores = results(tmp_path)
    assert len(scores["tasks"]) == 36
    assert scores["overall"]["tasks"] == 36
    assert scores["averages"]["OOD"]["tasks"] == 16
    assert {task["queries"] for task in scores["tasks"].values()} == {3}
    assert scores["overall"]["precision@1"] > 1.5 * scores["overall"]["chance"]
    for name in ("IND", "OOD", "overall", "grounding"):
        assert name in outcome.out
    sheet = json.loads((tmp_path / "run" / "leaderboard.json").read_text())
    assert set(sheet) == {"metadata", "metrics"}
    assert set(sheet["metrics"]["image"]) == set(scores["tasks"])
    assert sheet["metrics"]["image"]["OVEN"]["hit@1"] == scores["tasks"]["OVEN"]["precision@1"]
    assert sheet["metadata"]["embedding_dimension"] == 128
    assert sheet["metadata"]["model_size"] == 0.0  # 1.4 M parameters, in billions


def test_eval_part_of_mmeb_needs_its_files_only(run_eval, copy, tmp_path):
    for path in (copy / "MMEB-eval").glob("*/"):
        if path.name not in ("images", "GQA", "OVEN"):
            shutil.rmtree(path)
    outcome = run_eval("benchmark=mmeb", *places(copy, "mmeb"), "benchmark.subsets=[OVEN,GQA]")
    assert outcome.code == 0, outcome.err
    scores = results(tmp_path)
    assert set(scores["tasks"]) == {"OVEN", "GQA"}
    assert scores["overall"] is scores["averages"]["IND"] is scores["groups"]["vqa"] is None
    assert "incomplete" in outcome.out


def test_eval_all_three(run_eval, public, tmp_path, monkeypatch):
    outcome = run_eval("benchmark=all", *places(public), "benchmark.mmeb.subsets=[GQA,RefCOCO]", "resolution=clip")
    assert outcome.code == 0, outcome.err
    benchmarks = results(tmp_path)["benchmarks"]
    assert set(benchmarks) == {"mmeb", "sugarcrepe", "sugarcrepe_pp"}
    assert len(benchmarks["sugarcrepe"]["tasks"]) == 7
    assert len(benchmarks["sugarcrepe_pp"]["tasks"]) == 10
    assert {task["queries"] for task in benchmarks["sugarcrepe_pp"]["tasks"].values()} == {12}
    policies = {}
    for name, scores in benchmarks.items():
        alone = results(tmp_path, name)
        policies[name] = alone["manifest"]["fingerprint"]["resolution"]["policy"]
        assert {key: alone[key] for key in scores} == scores
        assert (tmp_path / "run" / name / "scores.png").is_file()
    page = (tmp_path / "run" / "report.html").read_text()
    for name, scores in benchmarks.items():
        assert all(f"{name}: {task}</option>" in page for task in scores["tasks"])
    assert policies == {"mmeb": "clip", "sugarcrepe": "original", "sugarcrepe_pp": "original"}
    assert "sugarcrepe is evaluated at its published resolution, original" in " ".join(outcome.err.split())


def spoil_json(folder, change):
    file = folder / "sugar-crepe" / "data" / "swap_obj.json"
    rows = json.loads(file.read_text())
    change(rows)
    file.write_text(json.dumps(rows))


def sugar(name="swap_obj.json"):
    return f"sugar-crepe/data/{name}"


def no_target(folder, texts):
    eval_rows(folder, "GQA", tgt_text=[texts] * 3, tgt_img_path=[[""] * len(texts)] * 3)


def some_missing(folder):
    for path in (folder / "MMEB-eval/images/OVEN").glob("*[12].png"):
        path.unlink()


LOOKED = r"looked in \S+MMEB-eval, .* and \d+ more folders in it; set the image folder"
COCO = r"looked in \S+coco, \S+val2017; set the image folder"


@pytest.mark.parametrize(
    ("benchmark", "spoil", "args", "message"),
    [
        ("mmeb", None, ["benchmark.subsets=[ImageNet_1K]"], r"no task ImageNet_1K; .* \(did you mean ImageNet-1K\?\)"),
        ("mmeb", None, ["benchmark.image_dir=/none"], r"the image folder /none does not exist; set image_dir to where"),
        ("mmeb", None, ["benchmark.annotations=/none"], r"the dataset /none is neither a folder nor a hub id such as"),
        ("mmeb", None, ["benchmark.annotations=no/one"], r"subset ImageNet-1K, split test, of no/one could not be"),
        ("mmeb", some_missing, [], rf"\d+ of \d+ pictures are missing: \S+OVEN_1.png, .*; {LOOKED}"),
        ("mmeb", lambda f: shutil.rmtree(f / "MMEB-eval/GQA"), [], r"GQA has no file .* test.jsonl; .* holds A-OKVQA"),
        ("mmeb", lambda f: eval_rows(f, "GQA", qry_text=[3] * 3), [], r"row 0: qry_text is not a text but int '3'"),
        ("mmeb", lambda f: eval_rows(f, "GQA", tgt_text=["a"] * 3), [], r"row 0: tgt_text is not a list of texts but"),
        ("mmeb", lambda f: no_target(f, ["a"]), [], r"GQA.*row 0 has 1 targets: nothing to rank"),
        (
            "mmeb",
            lambda f: no_target(f, ["", "a"]),
            [],
            r"GQA.*row 0: the positive is not among the candidates",
        ),
        ("sugarcrepe", None, ["benchmark.subsets=[swap]"], r"sugarcrepe has no task swap; choose from add_att"),
        ("sugarcrepe", lambda f: (f / sugar()).unlink(), [], r"swap_obj.json do not exist; .* holds add_att"),
        (
            "sugarcrepe",
            lambda f: spoil_json(f, lambda rows: rows["3"].pop("caption")),
            [],
            r"row 3 has no text",
        ),
        ("sugarcrepe", lambda f: (f / sugar()).write_text("{"), [], r"swap_obj.json is not JSON"),
        ("sugarcrepe", lambda f: (f / sugar()).write_text("[]"), [], r"swap_obj.json holds no rows"),
        ("sugarcrepe", lambda f: (f / "coco/val2017/000000000003.jpg").unlink(), [], rf"1 of 12 pictures are .*{COCO}"),
        (
            "sugarcrepe_pp",
            lambda f: shutil.copy(f / sugar(), f / "scpp/data"),
            [],
            r"json row 0 has no text under",
        ),
    ],
)
def test_bad_input(run_eval, copy, benchmark, spoil, args, message, monkeypatch):
    if spoil:
        spoil(copy)
    monkeypatch.setattr("gen2embed.model.backbone.AutoModelForImageTextToText", None)  # the model is not reached
    outcome = run_eval(f"benchmark={benchmark}", *places(copy, benchmark), *args)
    assert outcome.code == 1
    assert re.search(message, " ".join(outcome.err.split())), outcome.err
    assert "Traceback" not in outcome.err


# --- your own data --------------------------------------------------------------------------------------------------

PAIRS = [{"qry": f"a {word}", "qry_image_path": "", "pos_text": word, "pos_image_path": ""} for word in
         ("dog", "cat", "red star", "blue ring", "sea", "tree", "house", "boat")]  # fmt: skip
TASK = [{"qry_text": row["qry"], "qry_img_path": "", "tgt_text": [row["pos_text"], "x", "y"], "tgt_img_path": [""] * 3}
        for row in PAIRS]  # fmt: skip


def write(file, rows):
    if file.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), file)
    elif file.suffix == ".jsonl":
        file.write_text("\n".join(map(json.dumps, rows)))
    else:
        with file.open("w", newline="") as opened:
            writer = csv.DictWriter(opened, list(rows[0]))
            writer.writeheader()
            writer.writerows([{k: json.dumps(v) if isinstance(v, list) else v for k, v in row.items()} for row in rows])


@pytest.mark.parametrize("ending", ["parquet", "jsonl", "csv"])
def test_your_own_files(tmp_path, ending):
    write(tmp_path / f"pairs.{ending}", PAIRS)
    write(tmp_path / f"task.{ending}", TASK)
    pairs = Files(path=tmp_path / f"pairs.{ending}").pairs()
    assert [(pair.subset, pair.row, pair.positive.texts) for pair in pairs][2] == ("pairs", 2, ("red star",))
    (task,) = read_custom(tmp_path / f"task.{ending}").tasks
    assert task.candidates[task.choices[2][0]].texts == ("red star",)
    assert len(task.candidates) == 10


def test_a_folder_of_your_own_files(tmp_path):
    for name in ("one", "two"):
        write(tmp_path / f"{name}.jsonl", PAIRS)
    assert {pair.subset for pair in Files(path=tmp_path).pairs()} == {"one", "two"}
    assert {pair.subset for pair in Files(path=tmp_path, subsets=["two"]).pairs()} == {"two"}
    with pytest.raises(UserError, match=r"has no subset tow; choose from one, two \(did you mean two\?\)"):
        Files(path=tmp_path, subsets=["tow"]).pairs()
    for name in ("one", "two"):
        write(tmp_path / f"{name}.jsonl", TASK)
    assert [task.name for task in read_custom(tmp_path, subsets=["two"]).tasks] == ["two"]


def test_teacher_scores_are_a_column(run_script, tmp_path):
    """A pair that another model doubts is in no cluster; numbers may be texts, as in a csv."""
    rows = [{**row, "score": str(number / 10)} for number, row in enumerate(PAIRS)]
    write(tmp_path / "pairs.csv", rows)
    mine = ("mine.py", "data=pairs", "data.path=pairs.csv", "data.teacher_column=score", "engine.store=null",
            "mining.top_k=1", "output_dir=mined")  # fmt: skip
    kept = []
    for least in ("null", "0.35"):
        outcome = run_script(*mine, f"mining.min_teacher_score={least}")
        assert outcome.code == 0, outcome.err
        table = pq.read_table(tmp_path / "mined" / "clusters.parquet").to_pylist()
        assert all(row["teacher_score"] == pytest.approx(row["row"] / 10) for row in table)
        kept.append({row["row"] for row in table})
    assert min(kept[0]) < 4 <= min(kept[1])
    write(tmp_path / "pairs.csv", [{**rows[0], "score": "high"}, *rows[1:]])
    outcome = run_script(*mine)
    assert "pairs.csv row 0: score is not a finite number but str 'high'" in " ".join(outcome.err.split())


def test_a_rows_own_negatives(tmp_path):
    """MMEB's columns: one, several, pictures, or none; off unless asked for."""
    extra = [
        {"neg_text": "wrong", "neg_image_path": ""},
        {"neg_text": ["wrong", "worse"], "neg_image_path": None},
        {"neg_text": "", "neg_image_path": ["a.png", "b.png"]},
        {"neg_text": ["x", ""], "neg_image_path": ["", "b.png"]},
        {"neg_text": "<|image_1|>", "neg_image_path": ["a.png", "b.png"]},
        {"neg_text": "", "neg_image_path": ""},
    ]
    rows = [{**row, **more, "score": 0.5} for row, more in zip(PAIRS, extra, strict=False)]
    for name in ("a", "b"):
        Image.new("RGB", (28, 28)).save(tmp_path / f"{name}.png")
    write(tmp_path / "pairs.jsonl", rows)
    source = Files(path=tmp_path / "pairs.jsonl", negatives=True, teacher_column="score")
    pairs = source.pairs()
    assert [[str(item).replace(str(tmp_path) + "/", "") for item in pair.negatives] for pair in pairs] == [
        ["text 'wrong'"],
        ["text 'wrong'", "text 'worse'"],
        ["picture a.png", "picture b.png"],
        ["text 'x'", "picture b.png"],
        ["picture a.png", "picture b.png"],
        [],
    ]
    assert {pair.teacher_score for pair in pairs} == {0.5}
    assert {picture.source.name for pair in pairs for picture in pair.pictures} >= {"a.png", "b.png"}
    assert not any(pair.negatives for pair in replace(source, negatives=False).pairs())
    write(tmp_path / "pairs.jsonl", [{**rows[0], "neg_text": ["a", "b", "c"], "neg_image_path": ["a.png", "b.png"]}])
    with pytest.raises(UserError, match=r"pairs.jsonl row 0: 3 texts in neg_text and 2 names in neg_image_path; give"):
        source.pairs()
    write(tmp_path / "pairs.jsonl", [{**rows[0], "neg_text": 3}])
    with pytest.raises(UserError, match="row 0: neg_text is not a text or a list of texts but int '3'"):
        source.pairs()


def test_train_and_evaluate_on_your_own_data(run_script, tmp_path):
    write(tmp_path / "pairs.csv", PAIRS)
    write(tmp_path / "task.jsonl", TASK)
    outcome = run_script(
        "train.py", "data=pairs", "data.path=pairs.csv", "benchmark=custom", "benchmark.annotations=task.jsonl",
        "mining.top_k=3", "batch.pairs=8", "trainer.max_steps=2", "output_dir=run", "bootstrap=20",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    scores = json.loads((tmp_path / "run" / "results.json").read_text())
    assert scores["tasks"]["task"]["queries"] == 8
    assert scores["tasks"]["task"]["candidates"] == 3
    assert scores["overall"]["tasks"] == 1


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda f: write(f, [{"qry": "a", "pos_text": "b"}]),
            r"jsonl lacks the column qry_image_path, pos_image_path",
        ),
        (lambda f: write(f, [*PAIRS[:2], {**PAIRS[0], "qry": ""}]), r"jsonl row 2: an item needs a text or a picture"),
        (lambda f: write(f, [{**PAIRS[0], "qry": 7}]), r"pairs.jsonl row 0: qry is not a text but int '7'"),
        (
            lambda f: write(f, [{**PAIRS[0], "qry_image_path": "no.png"}]),
            r"1 of 1 pictures are missing: no.png;",
        ),
        (lambda f: f.write_text("{"), r"pairs.jsonl row 0 is not JSON"),
        (lambda f: f.write_text("3"), r"pairs.jsonl row 0 is not a JSON object: '3'"),
        (lambda f: f.write_text(""), r"pairs.jsonl is empty: it has no rows"),
        (lambda f: f.rename(f.with_suffix(".txt")), r"pairs.jsonl does not exist"),
    ],
)
def test_bad_pairs(run_script, tmp_path, spoil, message):
    write(tmp_path / "pairs.jsonl", PAIRS)
    spoil(tmp_path / "pairs.jsonl")
    outcome = run_script("mine.py", "data=pairs", "data.path=pairs.jsonl", "mining.top_k=3", "engine.store=null")
    assert outcome.code == 1
    assert re.search(message, " ".join(outcome.err.split())), outcome.err
    assert "Traceback" not in outcome.err


def test_a_file_of_another_kind(tmp_path):
    (tmp_path / "a.txt").touch()
    with pytest.raises(UserError, match=r"a.txt is not a .parquet, .jsonl or .csv file"):
        read_custom(tmp_path / "a.txt")
    with pytest.raises(UserError, match=r"holds no .parquet, .jsonl or .csv file"):
        read_custom(tmp_path)


def test_unknown_subsets_of_mmeb_train(run_script, public):
    folder = public / "MMEB-train"
    outcome = run_script(
        "mine.py", "data=mmeb", f"data.path={folder}", f"data.image_dir={folder}", "data.subsets=[VisDail]"
    )
    assert re.search(
        r"VisDail has no file original-\*.parquet .* \(did you mean VisDial\?\)", " ".join(outcome.err.split())
    )
