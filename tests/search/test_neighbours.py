"""The stages of mining are whole after a kill, shared by ranks, and say what they do not reuse."""

import json
import re
import sys
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from vectors import unit

from gen2embed import UserError
from gen2embed.encoding.engine import Engine
from gen2embed.encoding.store import EmbeddingStore
from gen2embed.mining.mine import mine_pairs
from gen2embed.mining.saha import SaHa, SaHaPaper
from gen2embed.search import approximate
from gen2embed.search.exact import Search, nearest
from gen2embed.search.neighbours import find_neighbours
from gen2embed.utils.rank_group import RankGroup

QUERIES, CANDIDATES = unit(0, 50, 16), unit(1, 600, 16)


def find(count=9, **settings):
    return find_neighbours(Search(**settings), QUERIES, CANDIDATES, count, {"embedding": {"model": "m"}})


def test_shards_are_kept_and_whole(tmp_path):
    expected = nearest(QUERIES, CANDIDATES, 9)
    assert (find().indices == expected).all()
    assert (find(store=tmp_path, shard_size=20).indices == expected).all()
    (folder,) = tmp_path.iterdir()
    files = ["000000000-000000020.npy", "000000020-000000040.npy", "000000040-000000050.npy", "manifest.json"]
    assert sorted(path.name for path in folder.iterdir()) == files
    np.save(folder / files[0], np.full((20, 9), 7, np.int32))  # what is there is not searched again
    (folder / files[1]).unlink()
    again = find(store=tmp_path, shard_size=20, memory_gib=1).indices
    assert (again[:20] == 7).all()
    assert (again[20:] == expected[20:]).all()


def test_what_is_not_reused_is_explained(tmp_path, caplog):
    with caplog.at_level("INFO", "gen2embed"):
        find(store=tmp_path)
        assert not caplog.messages
        find(count=5, store=tmp_path)
        assert re.search(r"no neighbours are reused; .* differs: count is 9 there and 5 here", caplog.text)
        decided_by = {"embedding": {"model": "m", "prompt": {"system": "x"}}}
        find_neighbours(Search(store=tmp_path), QUERIES, CANDIDATES, 5, decided_by)
    assert re.search(r"differs: embedding.prompt.system is nothing there and 'x' here", caplog.text)
    assert len(list(tmp_path.iterdir())) == 3


def test_a_folder_of_another_search_is_refused(tmp_path):
    find(store=tmp_path)
    (folder,) = tmp_path.iterdir()
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "embedding": {"model": "another"}}))
    with pytest.raises(UserError, match=r"the neighbours in .* embedding.model is 'another' there and 'm' here; name"):
        find(store=tmp_path)


def test_approximate(tmp_path):
    exact = nearest(QUERIES, CANDIDATES, 9)
    assert find(approximate_above=600).searched == {"exact": True}
    result = find(approximate_above=599, probes=2, store=tmp_path)
    shared = [len(set(a) & set(b)) for a, b in zip(exact, result.indices, strict=True)]
    recall = sum(shared) / exact.size
    assert 0.3 < recall < 1
    assert result.searched == {"exact": False, "recall@9": pytest.approx(recall, abs=1e-6), "measured_on": 50}
    again = find(approximate_above=599, probes=2, store=tmp_path)
    assert (again.indices == result.indices).all()
    assert again.searched == result.searched
    assert not list(tmp_path.rglob("*faiss*"))
    all_cells = find(approximate_above=0, probes=1000)
    assert all_cells.searched["recall@9"] > 0.98  # cells are left out no more; vectors are float16 in them
    few = find(count=500, approximate_above=0, probes=1)
    assert (few.indices == nearest(QUERIES, CANDIDATES, 500)).all()  # too few in one cell: searched exactly


def test_the_recall_is_in_the_clusters_manifest(tiny):
    miner, search = SaHaPaper(top_k=2), Search(approximate_above=7)
    mined = mine_pairs(tiny, Engine(), pairs_of_words(), miner, [], search)
    exact = mine_pairs(tiny, Engine(), pairs_of_words(), miner, [])
    assert mined.manifest["searched"] == {"text": {"exact": False, "recall@8": 1.0, "measured_on": 8}}
    assert mined.manifest["search"] == {"exact": False, "approximate_above": 7, "probes": 64}
    assert exact.manifest["search"] == exact.manifest["searched"]["text"] == {"exact": True}
    assert mined.table.equals(exact.table)  # one cell holds them all


def test_without_faiss(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(UserError, match=r"needs faiss, which is not installed: pip install 'gen2embed\[approximate\]'"):
        find(approximate_above=10)


def test_ranks_need_a_store_and_do_not_wait_for_ever(tmp_path):
    two = RankGroup(0, 2, timeout_seconds=0.2)
    with pytest.raises(UserError, match=r"share neighbours through the store, and there is none; set search.store"):
        find_neighbours(Search(), QUERIES, CANDIDATES, 5, {}, two)
    search = Search(store=tmp_path, shard_size=20)
    with pytest.raises(UserError, match=r"other ranks have not written 1 of 3 files, .*000020-000000040"):
        find_neighbours(search, QUERIES, CANDIDATES, 5, {}, two)
    assert len(list(tmp_path.rglob("*.npy"))) == 2
    second = find_neighbours(search, QUERIES, CANDIDATES, 5, {}, RankGroup(1, 2, timeout_seconds=0.2))
    assert (second.indices == nearest(QUERIES, CANDIDATES, 5)).all()


def test_the_first_rank_builds_the_index_for_the_others(tmp_path, monkeypatch):
    """Also where its own shards are all there, after a kill."""
    search = Search(store=tmp_path, shard_size=25, approximate_above=10)
    expected = find_neighbours(search, QUERIES, CANDIDATES, 5, {}).indices
    shards = sorted(tmp_path.rglob("*.npy"))
    shards[1].unlink()
    built = []
    monkeypatch.setattr("gen2embed.search.neighbours.build_index", lambda *_: built.append(approximate.build_index(*_)))
    with pytest.raises(UserError, match=r"1 of 2 files.*timeout_seconds"):
        find_neighbours(search, QUERIES, CANDIDATES, 5, {}, RankGroup(0, 2, timeout_seconds=0.2))
    assert built == [None]
    assert (find_neighbours(search, QUERIES, CANDIDATES, 5, {}, RankGroup(1, 2)).indices == expected).all()
    with pytest.raises(UserError, match=r"share embeddings through the store, and there is none; set engine.store"):
        mine_pairs(FakeModel(), Engine(), pairs_of_words(), SaHaPaper(top_k=2), [], ranks=RankGroup(1, 2))


class FakeModel:
    fingerprint = types.MappingProxyType({"model": "fake"})


def pairs_of_words():
    from gen2embed import Item
    from gen2embed.types import Pair

    return [Pair(Item.create(f"a {word}"), Item.create(word), "text", row) for row, word in enumerate("abcdefgh")]


@pytest.mark.parametrize(
    ("spoil", "message"), [(np.nan, "holds values that are not finite"), (0, "is zero, and a neighbour of it means")]
)
def test_bad_vectors_in_the_store(tmp_path, tiny, spoil, message):
    """They cannot come from the engine, but a store is files."""
    pairs, engine = pairs_of_words(), Engine(store=tmp_path)
    keys = [f"query:{pair.query.key}" for pair in pairs]
    EmbeddingStore.under(tmp_path, tiny.fingerprint).write(keys, np.full((len(keys), 128), spoil))
    with pytest.raises(UserError, match=rf"the embedding of row 0 of the queries {message}"):
        mine_pairs(tiny, engine, pairs, SaHaPaper(top_k=2), [])


# --- real processes -------------------------------------------------------------------------------------------------

MINE = ["trainer=cpu", "data.rows=24", "data.subsets=[shape,t2i]", "mining.top_k=5", "engine.shard_size=8",
        "engine.batch_tokens=100", "search.shard_size=9", "output_dir=mined"]  # fmt: skip
TWO = ["strategy=ddp", "trainer.devices=2"]


@pytest.fixture(scope="module")
def mine(forked, world):
    """Run mine.py in forks; returns the exit codes of the ranks, and what they said."""

    def run(folder, *args, **options):
        log = folder / "said"
        codes = forked(log, *MINE, f"data.folder={world.folder}", *args, script="mine.py", folder=folder, **options)
        logs = [Path(f"{log}.{rank}") for rank in range(len(codes))]
        text = "".join(path.read_text() for path in logs)
        for path in logs:
            path.unlink()
        return codes, text

    return run


@pytest.fixture(scope="module")
def uninterrupted(mine, tmp_path_factory):
    """The clusters of one process that nobody killed."""
    folder = tmp_path_factory.mktemp("whole")
    codes, output = mine(folder)
    assert codes == [0], output
    return (folder / "mined/clusters.parquet").read_bytes()


def test_ranks_share_an_evaluation(forked, tmp_path):
    """Each embeds its shards; one leaves the results, which are those of a process alone."""
    args = ["trainer=cpu", "benchmark.queries=6", "bootstrap=10", "engine.shard_size=8", "report_queries=0"]
    scores, stored = [], []
    for name, more in (("one", []), ("two", TWO)):
        (folder := tmp_path / name).mkdir()
        options = {"script": "eval.py", "folder": folder, **({"ranks": 2} if more else {})}
        codes = forked(folder / "said", *args, *more, "output_dir=run", **options)
        assert codes == [0] * len(codes), (folder / "said.0").read_text()
        results = json.loads((folder / "run/results.json").read_text())
        scores.append({task: (scored["precision@1"], scored["mrr"]) for task, scored in results["tasks"].items()})
        stored.append((count(folder, "embeddings"), results["manifest"]["items_computed"]))
    assert scores[0] == scores[1]
    assert stored[0][0] == stored[1][0] > 2
    assert stored[1][1] < 0.7 * stored[0][1]


def count(folder: Path, kind: str) -> int:
    return len([path for path in (folder / "outputs" / kind).rglob("*.npy") if not path.name.startswith(".")])


@pytest.mark.parametrize("ranks", [1, 2], ids=["one starts the other", "started together"])
def test_two_ranks_mine_what_one_does(mine, uninterrupted, tmp_path, ranks):
    codes, output = mine(tmp_path, *TWO, ranks=ranks)
    assert codes == [0] * ranks, output
    assert (tmp_path / "mined/clusters.parquet").read_bytes() == uninterrupted
    assert output.count("covered") == 1
    manifest = json.loads((tmp_path / "mined/manifest.json").read_text())
    shards = (tmp_path / "outputs/embeddings").rglob("*.ids.npy")
    rows = sum(len(np.load(path)) for path in shards)
    assert 0 < manifest["items_computed"] < rows  # of rank 0, and the other embedded the rest
    described = json.loads(pq.read_schema(tmp_path / "mined/clusters.parquet").metadata[b"gen2embed"])
    assert described["searched"] == {"shape": {"exact": True}, "t2i": {"exact": True}}


def test_a_rank_that_fails_ends_the_others(mine, tmp_path):
    codes, output = mine(tmp_path, *TWO, "engine.store=null")
    assert codes == [1], output
    assert "error: several ranks share embeddings through the store" in " ".join(output.split())
    assert "Traceback" not in output


def test_subsets_are_not_compared_with_each_other(world, tiny, tmp_path, caplog):
    """Another count of neighbours of the same subset is news, and another subset is none."""
    pairs = replace(world, subsets=("shape", "t2i")).pairs()
    search = Search(store=tmp_path)
    with caplog.at_level("INFO"):
        mine_pairs(tiny, Engine(), pairs, SaHa(top_k=2), [], search)
        assert "no neighbours are reused" not in caplog.text
        mine_pairs(tiny, Engine(), pairs, SaHa(top_k=1), [], search)
    assert caplog.text.count("no neighbours are reused") == 2
    assert "count is" in caplog.text
    assert "subset is" not in caplog.text
