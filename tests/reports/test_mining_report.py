"""The mining report: figures against loops, what the page holds, and what it says when files are missing."""

import json
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import noise
from pages import Page

from gen2embed import Item, UserError
from gen2embed.__main__ import main
from gen2embed.data.pairs import data_fingerprint
from gen2embed.mining import skipped as skipping
from gen2embed.mining.clusters import SCHEMA, write_clusters
from gen2embed.mining.mine import Mined
from gen2embed.mining.skipped import skipped_owners, write_skipped
from gen2embed.reports.mining import charts
from gen2embed.reports.mining.figures import facts, read_run, values
from gen2embed.reports.mining.page import gallery, write_report
from gen2embed.reports.svg import count
from gen2embed.types import Pair
from gen2embed.utils.fingerprints import fingerprint_digest

SCRIPT = "<script>alert(1)</script>"


@pytest.fixture
def pairs(tmp_path):
    """Two subsets; b has pictures, a text that is markup, a long one, and a control character."""
    for number in range(4):
        noise(number, (200, 90)).save(tmp_path / f"{number}.png")
    a = [("x", "1"), ("y", "1"), ("x", "1"), ("z", "2"), ("x", "3"), ("w", "4")]
    b = [(SCRIPT, 0), ("word " * 100, 1), ("half \x1b", 2), ("", 3)]
    out = [Pair(Item.create(query), Item.create(positive), "a", row) for row, (query, positive) in enumerate(a)]
    for row, (text, picture) in enumerate(b):
        out.append(Pair(Item.create(text, tmp_path / f"{picture}.png"), Item.create(f"label {row % 2}"), "b", row))
    return out


MEMBERS = [[("a", 0), ("a", 3), ("a", 1)], [("a", 5), ("a", 4)], [("b", 0), ("b", 1), ("b", 2)]]  # a 2 and b 3: nowhere


def cluster_table(similar=True):
    rows = []
    for number, members in enumerate(MEMBERS):
        for position, (subset, row) in enumerate(members):
            similarities = (0.1 * position + 0.05, 1.0 - 0.2 * position) if similar else (None, None)
            rows.append((number, position, subset, row, *similarities, None))
    return pa.Table.from_pylist([dict(zip(SCHEMA.names, row, strict=True)) for row in rows], SCHEMA)


def leave_run(folder, pairs, similar=True):
    manifest = {
        "kind": "SaHaPaper" if similar else "Random",
        "settings": {"top_k": 2},
        "data": data_fingerprint(pairs),
        "rows": len(pairs),
        "subsets": ["a", "b"],
        "embedding": {"model": "weights:1"} if similar else None,
    }
    write_clusters(folder / "clusters.parquet", cluster_table(similar), manifest)
    sample = {"anchors": 200, "pool": 12, "seed": 7, "clusters": fingerprint_digest(manifest)}
    rows = [(0, "a", 4, 0.4, 0.9), (0, "a", 5, 0.2, 0.3), (2, "b", 3, 1.0000001, -0.2)] if similar else []
    table = pa.Table.from_pylist([dict(zip(skipping.SCHEMA.names, row, strict=True)) for row in rows], skipping.SCHEMA)
    write_skipped(folder / "skipped.parquet", table.replace_schema_metadata({"gen2embed": json.dumps(sample)}))


@pytest.fixture
def run_folder(tmp_path, pairs):
    folder = tmp_path / "mined"
    leave_run(folder, pairs)
    return folder


def read_page(folder):
    return Page((folder / "report.html").read_text("utf-8"))


# --- figures --------------------------------------------------------------------------------------------------------


def test_figures(run_folder, pairs):
    run = read_run(run_folder, pairs)
    a, b = (facts(run, subset) for subset in run.subsets)
    assert (a["rows"], a["clusters"], a["covered"], a["sizes"], a["full"]) == (6, 2, 5, (2, 2.5, 3), 1)
    assert (b["rows"], b["clusters"], b["covered"], b["sizes"], b["full"]) == (4, 1, 3, (3, 3, 3), 1)
    assert a["similarity"] == pytest.approx((0.15 + 0.25 + 0.15) / 3)
    assert b["owner_similarity"] == pytest.approx(0.7)
    wider = replace(run, manifest={**run.manifest, "settings": {"top_k": 5}})
    assert [facts(wider, subset)["full"] for subset in run.subsets] == [0, 1]  # b has two labels: no two rows can join
    assert (a["clashes"], b["clashes"]) == (1, 1)  # a 0 and 1 share a positive, b 0 and 2, too


def test_duplicates_against_a_loop(run_folder, pairs):
    run = read_run(run_folder, pairs)
    same = {
        "query": lambda x, y: x.query.key == y.query.key,
        "positive": lambda x, y: x.positive.key == y.positive.key,
        "both": lambda x, y: x.query.key == y.query.key and x.positive.key == y.positive.key,
    }
    found = {}
    for subset in run.subsets:
        its = [pair for pair in pairs if pair.subset == subset.name]
        found[subset.name] = facts(run, subset)["duplicates"]
        for kind, equal in same.items():
            assert found[subset.name][kind] == sum(any(x is not y and equal(x, y) for y in its) for x in its)
    assert found == {"a": {"query": 3, "positive": 3, "both": 2}, "b": {"query": 0, "positive": 4, "both": 0}}


def test_histograms_count_every_member(run_folder, pairs):
    run = read_run(run_folder, pairs)
    members = sum(map(len, MEMBERS))
    for column, own in (("similarity", len(MEMBERS)), ("owner_similarity", 0)):
        its = {name: count(part, charts.BINS).sum() for name, part in values(run.subsets, column).items()}
        assert its == {"kept": members - len(MEMBERS), "skipped": 3, **({"own positive": own} if own else {})}


def test_clusters_across_subsets(tmp_path, pairs, monkeypatch):
    """A cluster counts where its anchor is, its rows count where they are."""
    monkeypatch.setattr("test_mining_report.MEMBERS", [[("b", 0), ("a", 3), ("a", 1)]])
    leave_run(tmp_path / "mixed", pairs)
    run = read_run(tmp_path / "mixed", pairs)
    a, b = (facts(run, subset) for subset in run.subsets)
    assert (a["clusters"], a["covered"], a["sizes"]) == (0, 2, None)
    assert (b["clusters"], b["covered"], b["sizes"]) == (1, 1, (3, 3, 3))
    write_report(tmp_path / "mixed", pairs)
    assert "No cluster has its anchor in this subset." in read_page(tmp_path / "mixed").said


# --- skipped owners -------------------------------------------------------------------------------------------------


def random_run(seed, rows=40, candidates=25, clusters=8, size=4):
    """Pairs with shared queries and positives, their vectors, and disjoint random clusters of them."""
    random = np.random.default_rng(seed)
    sides = [random.integers(rows - 5, size=rows), random.integers(candidates, size=rows)]
    vectors = [random.normal(size=(rows, 8)).astype(np.float32)[its] for its in sides]
    vectors = [its / np.linalg.norm(its, axis=1, keepdims=True) for its in vectors]
    pairs = [
        Pair(Item.create(f"q{query}"), Item.create(f"c{candidate}"), "s", 3 * row)
        for row, (query, candidate) in enumerate(zip(*sides, strict=True))
    ]
    members = random.permutation(rows)[: clusters * size].reshape(clusters, size)
    table = [
        {"cluster": number, "position": position, "subset": "s", "row": 3 * int(row)}
        for number, its in enumerate(members)
        for position, row in enumerate(its)
    ]
    encoded = tuple(SimpleNamespace(vectors=torch.from_numpy(its)) for its in vectors)
    return pairs, *vectors, members, Mined(pa.Table.from_pylist(table, SCHEMA), {"some": "manifest"}, encoded)


def skipped_by_a_loop(pairs, queries, positives, members, count):
    """Cluster and row, as the module's own words have it."""
    found = set()
    texts = [pair.positive.texts[0] for pair in pairs]
    for number, its in enumerate(members):
        anchor = queries[its[0]]
        similarity = {text: float(anchor @ positives[row]) for row, text in enumerate(texts)}
        own = {texts[row] for row, pair in enumerate(pairs) if pair.query.key == pairs[its[0]].query.key}
        for text in sorted(similarity, key=similarity.get, reverse=True)[:count]:
            if text not in own and text not in {texts[row] for row in its}:
                owners = [row for row in range(len(pairs)) if texts[row] == text]
                found.add((number, pairs[max(owners, key=lambda row: float(queries[row] @ anchor))].row))
    return found


@pytest.mark.parametrize("seed", range(5))
def test_skipped_owners_against_a_loop(seed):
    pairs, queries, positives, members, mined = random_run(seed)
    table = skipped_owners(mined, pairs, SimpleNamespace(top_k=3, pool_multiplier=2), seed=0)
    rows = table.to_pylist()
    naive = skipped_by_a_loop(pairs, queries, positives, members, 12)
    # Equal queries tie, and rows of one query are one another's equals.
    query = {pair.row: pair.query.key for pair in pairs}
    assert {(row["cluster"], query[row["row"]]) for row in rows} == {(cluster, query[row]) for cluster, row in naive}
    assert len(rows) == len(naive) > 8
    for row in rows:
        anchor, owner = members[row["cluster"]][0], row["row"] // 3
        assert row["similarity"] == pytest.approx(float(queries[anchor] @ positives[owner]), abs=1e-6)
        assert row["owner_similarity"] == pytest.approx(float(queries[anchor] @ queries[owner]), abs=1e-6)


def test_the_sample_is_seeded_and_bounded(monkeypatch):
    pairs, *_, mined = random_run(0)
    miner = SimpleNamespace(top_k=2)
    every = skipped_owners(mined, pairs, miner, seed=0)
    monkeypatch.setattr(skipping, "ANCHORS", 3)
    drawn = [skipped_owners(mined, pairs, miner, seed) for seed in (0, 0, 1)]
    chosen = [set(table["cluster"].to_pylist()) for table in drawn]
    assert len(set(every["cluster"].to_pylist())) > 3 >= len(chosen[0])
    assert drawn[0].equals(drawn[1])
    assert chosen[0] != chosen[2]
    sample = json.loads(drawn[2].schema.metadata[b"gen2embed"])
    assert (sample["anchors"], sample["pool"], sample["seed"]) == (3, 12, 1)


# --- the page -------------------------------------------------------------------------------------------------------


def test_page(run_folder, pairs):
    write_report(run_folder, pairs)
    page = read_page(run_folder)
    assert (run_folder / "mining.png").read_bytes().startswith(b"\x89PNG")
    said = " ".join(page.said.split())
    assert "Cluster 0, 3 rows" in said
    assert "Owners that the anchor skipped: 2." in said
    assert "seed 7" in said  # of the sample
    assert "at most 200 clusters a subset" in said
    assert "equal positive" in said
    assert "closer than the anchor's positive" in said
    assert "word…" in said
    assert "word " * 60 not in said
    assert page.tags["script"] == 0
    assert SCRIPT in said  # as text
    b = next(subset for subset in read_run(run_folder, pairs).subsets if subset.name == "b")
    shown = sum(len(rows["members"].pair) + len(rows["skipped"].pair) for rows in gallery(None, b, 0))
    thumbnails = re.findall(
        r'<img src="data:image/webp;base64,[^"]+" alt="\d.png"', (run_folder / "report.html").read_text()
    )
    assert len(thumbnails) == shown == 4


def test_page_asks_no_network(run_folder, pairs):
    write_report(run_folder, pairs)
    assert "http" not in (run_folder / "report.html").read_text()
    page = read_page(run_folder)
    assert page.outside() == []
    assert page.tags["svg"] == 3 + 2 * 3  # of all subsets, and of each
    assert page.tags["script"] == 0


def test_report_repeats_and_its_seed_chooses(run_folder, pairs, monkeypatch):
    monkeypatch.setattr("gen2embed.reports.mining.page.GALLERY", 1)
    (run_folder / "skipped.parquet").unlink()
    pages = []
    for _ in range(2):
        write_report(run_folder, pairs, seed=1)
        pages.append((run_folder / "report.html").read_bytes())
    assert pages[0] == pages[1]
    assert b"there is no skipped.parquet" in pages[0]
    run = read_run(run_folder, pairs)
    assert {next(gallery(run, run.subsets[0], seed))["number"] for seed in range(8)} == {0, 1}


def test_random_clusters_have_no_similarities(tmp_path, pairs):
    leave_run(tmp_path / "random", pairs, similar=False)
    write_report(tmp_path / "random", pairs)
    said = " ".join(read_page(tmp_path / "random").said.split())
    assert "Nothing was embedded to mine these clusters, so there are no similarities to show." in said
    assert "Anchor to candidate" not in said
    assert "Cluster sizes" in said
    assert "nan" not in said


# --- the command ----------------------------------------------------------------------------------------------------


def test_command_refuses(run_folder, pairs, tmp_path, capsys):
    def refused(*args):
        assert main(["report", *map(str, args)]) == 1
        return capsys.readouterr().err

    message = refused(tmp_path / "nowhere")
    assert "nowhere holds no results.json" in message
    assert "no clusters.parquet" in message
    assert "config.yaml does not exist" in refused(run_folder)
    (run_folder / "config.yaml").write_text("data:\n  _target_: os.system\n  command: false\n")
    assert "data._target_='os.system' is not allowed" in refused(run_folder)
    (run_folder / "config.yaml").write_text("seed: 1\n")
    assert "names no data" in refused(run_folder)
    missing = "_target_: gen2embed.data.pairs.Files\n  path: gone/rows.csv\n"
    (run_folder / "config.yaml").write_text(f"data:\n  {missing}")
    assert re.search(r"config.yaml says: gone/rows.csv .*; relative paths start", refused(run_folder))
    for more in ([tmp_path], ["--output", tmp_path / "x.html"], ["--queries", 0]):
        assert "name it alone" in refused(run_folder, *more)
    (run_folder / "results.json").write_text("{}")  # as a training run has, whose report is of its evaluation
    assert "results.json holds no evaluation's results" in refused(run_folder)


def test_what_is_gone_or_of_another_run(run_folder, pairs, tmp_path):
    table = pq.read_table(run_folder / "skipped.parquet")
    other = json.dumps({**json.loads(table.schema.metadata[b"gen2embed"]), "clusters": "0"})
    write_skipped(run_folder / "skipped.parquet", table.replace_schema_metadata({"gen2embed": other}))
    with pytest.raises(UserError, match="was sampled from other clusters than those beside it; mine again"):
        write_report(run_folder, pairs)
    with pytest.raises(UserError, match="mined from other data"):
        write_report(run_folder, pairs[1:])
    (run_folder / "skipped.parquet").unlink()
    for picture in tmp_path.glob("[12].png"):
        picture.unlink()
    with pytest.raises(UserError, match=r"2 of 3 pictures are missing: .*; looked in .*; set the image folder"):
        write_report(run_folder, pairs, [tmp_path])
    assert not (run_folder / "report.html").exists()


def test_mine_leaves_the_report(run_script, world, tmp_path, capfd):
    small = [f"data.folder={world.folder}", "data.rows=24", "data.subsets=[shape,change]", "mining.top_k=7"]
    for mining, skipped in (("saha_paper", True), ("random", False)):
        outcome = run_script("mine.py", f"mining={mining}", f"output_dir={mining}", *small, "engine.store=null")
        assert outcome.code == 0, outcome.err
        folder = tmp_path / mining
        left = {name: (folder / name).read_bytes() for name in ("report.html", "mining.png")}
        assert (pq.read_table(folder / "skipped.parquet").num_rows > 0) == skipped
        assert main(["report", str(folder)]) == 0
        assert "mining.png written" in capfd.readouterr().out
        assert {name: (folder / name).read_bytes() for name in left} == left
        assert "change" in read_page(folder).said
