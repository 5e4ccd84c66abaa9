"""Mining as a whole, from pairs to clusters and their report, by every miner that is shipped."""

import json
import shutil
from contextlib import contextmanager
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
from hydra.utils import instantiate

from gen2embed import UserError
from gen2embed.config.presets import compose_shipped
from gen2embed.data import pictures
from gen2embed.encoding import engine
from gen2embed.encoding.engine import Engine
from gen2embed.encoding.store import EmbeddingStore
from gen2embed.mining import mine as run
from gen2embed.mining import skipped
from gen2embed.mining.clusters import read_clusters, warn_of_other_pictures, write_clusters
from gen2embed.mining.mine import mine_pairs
from gen2embed.reports.mining import page
from gen2embed.search import approximate, neighbours
from gen2embed.search.exact import Search
from gen2embed.utils.log import progress

MINERS = ["saha", "saha_paper", "topk", "b3", "random"]


@pytest.fixture(scope="module")
def pairs(world):
    return replace(world, subsets=["shape", "t2i"]).pairs()


@pytest.fixture(scope="module")
def mine(tiny, pairs, tmp_path_factory):
    """Mined clusters and their miner; everything is embedded once."""
    store = tmp_path_factory.mktemp("embeddings")

    def mined(name, search):
        miner = instantiate(compose_shipped("mine", [f"mining={name}", "mining.top_k=3"]).mining)
        return miner, mine_pairs(tiny, Engine(store=store), pairs, miner, ["shape"], search)

    return mined


@pytest.mark.parametrize("name", MINERS[:4])
def test_blocks_of_the_search_change_no_cluster(mine, name):
    tables = [mine(name, Search(block=block))[1].table for block in (7, 4096, None)]
    assert tables[0].num_rows > 30
    assert tables[0].equals(tables[1])
    assert tables[0].equals(tables[2])


def test_what_does_not_fit_the_miner_is_refused_before_anything_is_embedded(pairs):
    miner = instantiate(compose_shipped("mine", ["mining.top_k=24"]).mining)
    with pytest.raises(UserError, match=r"mining.top_k=24 is larger than the data: subset shape has 24 rows"):
        mine_pairs(None, None, pairs, miner, [])
    scored = instantiate(compose_shipped("mine", ["mining.top_k=3", "mining.min_teacher_score=0"]).mining)
    with pytest.raises(UserError, match=r"mining.min_teacher_score needs .* subset shape; set data.teacher_column"):
        mine_pairs(None, None, pairs, scored, [])
    with pytest.raises(UserError, match="subset t2i has one row, and a cluster needs two; add rows, or leave"):
        mine_pairs(None, None, pairs[24:25], miner, [])


def test_a_store_of_another_model_is_refused(tiny, pairs, tmp_path):
    store = EmbeddingStore.under(tmp_path, tiny.fingerprint)
    manifest = store.folder / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "model": "weights:another"}))
    miner = instantiate(compose_shipped("mine", ["mining.top_k=3"]).mining)
    message = r"the embeddings in .* are not reused: model is 'weights:another' there and"
    with pytest.raises(UserError, match=message):
        mine_pairs(tiny, Engine(store=tmp_path), pairs, miner, [])


def test_a_bar_counts_steps_that_are_too_short_to_be_drawn(capsys):
    with progress("outer", 3000) as advance:
        for _ in range(3000):
            advance()
        with progress("inner", 7) as inner:
            inner(2, "indexing")
            inner(5)
    output = capsys.readouterr().err
    assert "3000/3000" in output
    assert "indexing" in output
    assert "7/7" in output
    assert " 0/s" not in output


@pytest.fixture
def bars(monkeypatch):
    """Title, total and steps of every bar that is shown."""
    seen = []

    @contextmanager
    def record(title, total, *, shown=True):
        steps = []
        if shown:
            seen.append((title, total, steps))
        yield lambda count=1, description=None: steps.append(count)

    for module in (approximate, engine, neighbours, page, pictures, run, skipped):
        monkeypatch.setattr(module, "progress", record)
    monkeypatch.setattr(engine, "PROGRESS_FROM", 0)
    monkeypatch.setattr(pictures, "HEADERS_FROM", 0)
    return seen


@pytest.mark.parametrize("name", MINERS)
def test_every_bar_ends_at_its_total(mine, bars, pairs, tmp_path, name):
    miner, mined = mine(name, Search(approximate_above=0))
    write_clusters(tmp_path / "clusters.parquet", mined.table, mined.manifest)
    skipped.write_skipped(tmp_path / "skipped.parquet", skipped.skipped_owners(mined, pairs, miner, 0))
    page.write_report(tmp_path, pairs)
    titles = ["checking pictures", "drawing the report", "grouping", "reading pictures"]
    if miner.embeds:
        titles += ["candidates", "measuring recall", "queries", "sampling skipped owners"]
        titles += ["searching", "training an index of 1 cells"]
    assert sorted({title for title, *_ in bars}) == sorted(titles)
    for title, total, steps in bars:
        assert sum(steps) == total, title
        assert all(step >= 0 for step in steps), title
    (grouping,) = (steps for title, _, steps in bars if title == "grouping")
    assert len(grouping) > 4 or not miner.embeds  # within a subset, too


def test_clusters_of_pictures_that_were_replaced_are_mined_again(tiny, world, tmp_path, caplog):
    """A picture is known by its content here, too, and by nothing else: moved rows have the same clusters."""
    shutil.copytree(world.folder, tmp_path / "world")
    copied = replace(world, folder=tmp_path / "world", subsets=["t2i"])
    miner = instantiate(compose_shipped("mine", ["mining=topk", "mining.top_k=3"]).mining)

    def mined(source):
        return run.mine_once(tmp_path / "clusters", tiny, source.pairs(), miner, Engine(store=tmp_path / "store"), [])

    first = mined(replace(world, subsets=["t2i"]))
    assert mined(copied) == first
    clusters = read_clusters(first, copied.pairs())
    warn_of_other_pictures(clusters, copied.pairs())
    assert not caplog.text
    files = [pair.positive.pictures[0].source for pair in copied.pairs()]
    contents = [file.read_bytes() for file in files]
    for file, content in zip(files, [*contents[1:], contents[0]], strict=True):
        file.write_bytes(content)
    again = mined(copied)
    assert again != first
    rows, expected = (pq.read_table(path).column("row").to_pylist() for path in (again, first))
    assert rows != expected
    warn_of_other_pictures(clusters, copied.pairs())
    assert "mine again" in caplog.text
