"""Inputs that lose the end of their text are counted, wherever they are embedded."""

import json
import logging

import pyarrow.parquet as pq
import pytest
import torch
from conftest import TINY, noise
from steps import collating, make_module

from gen2embed import Embedder
from gen2embed.__main__ import main
from gen2embed.encoding import truncation
from gen2embed.encoding.engine import Engine
from gen2embed.encoding.truncation import TruncationCount
from gen2embed.runs import results
from gen2embed.types import Item, Pair

LENGTH = 64
SHORT, LONG = "a dog", "a dog " * 60


@pytest.fixture(scope="module")
def short() -> Embedder:
    return Embedder.from_pretrained(TINY, resolution="original", device="cpu", max_length=LENGTH)


@pytest.fixture(autouse=True)
def fresh():
    truncation._warn.cache_clear()


ITEMS = [Item.create(text) for text in (SHORT, LONG + "red", SHORT, LONG + "blue", LONG + "red", "a cat")]
ITEMS.append(Item.create(LONG, noise(1, (28, 28))))


@pytest.mark.parametrize(("workers", "packing"), [(0, True), (0, False), (1, True)])
def test_the_count_is_of_distinct_items(workers, packing, caplog):
    model = Embedder.from_pretrained(TINY, resolution="original", device="cpu", max_length=LENGTH, packing=packing)
    encoded = Engine(workers=workers).encode(model, ITEMS, "query")
    assert torch.equal(encoded.vectors[1], encoded.vectors[3])  # which is why it has to be said
    plain = Embedder.from_pretrained(TINY, resolution="original", device="cpu")
    wanted = [
        f"{item} ({len(plain.build.token_ids(item, 'query'))} tokens)" for item in (ITEMS[1], ITEMS[3], ITEMS[-1])
    ]
    assert encoded.truncated == TruncationCount(3, 5, LENGTH, tuple(wanted))
    (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert all(part in warning.getMessage() for part in ("3 of 5", "role query", "model.max_length=64", wanted[0]))


def test_nothing_is_said_of_what_fits(short, caplog):
    assert Engine().encode(short, ITEMS[:1], "query").truncated == TruncationCount(0, 1, LENGTH)
    assert not caplog.records


@pytest.mark.parametrize("shard", [2, 100])
def test_what_the_store_holds_counts_as_well(short, tmp_path, caplog, shard):
    engine = Engine(store=tmp_path, shard_size=shard)
    first = engine.encode(short, ITEMS, "query")
    truncation._warn.cache_clear()
    caplog.clear()
    again = engine.encode(short, ITEMS, "query")
    assert (again.reused, again.computed) == (5, 0)
    assert again.truncated == first.truncated
    assert again.truncated.count == 3
    assert "3 of 5" in caplog.text
    assert Engine(store=tmp_path).encode(short, ITEMS[:2], "query").truncated.count == 1


def test_the_manifest_has_the_count(short):
    encoded = [Engine().encode(short, ITEMS, "query"), Engine().encode(short, ITEMS[:1], "candidate")]
    described = results.timing(encoded, 1.0)["items_cut"]
    assert (described["count"], described["of"], described["max_length"], len(described["first"])) == (3, 6, LENGTH, 3)
    assert json.loads(json.dumps(described)) == described


def test_the_python_api_warns_once(short, caplog):
    for _ in range(2):
        short.encode([SHORT, LONG])
    assert caplog.text.count("lost the end of their text") == 1


def test_training_counts_on_all_ranks(caplog):
    """The first step that has a cut input names it; the total goes on from a checkpoint."""
    embedder = Embedder.from_pretrained(TINY, resolution="original", device="cpu", max_length=LENGTH)
    module, collate = make_module(embedder), collating(embedder, 4, share=True)
    pairs = [
        Pair(Item.create(SHORT), Item.create(text), "own", row)
        for row, text in enumerate(("a", LONG, "b", LONG + "red"))
    ]
    for batch in (pairs[:1], pairs[1:], pairs):
        module._count_cut(collate(batch))
    assert (module.cut.count, module.cut.total, module.cut.max_length) == (4, 16, LENGTH)
    assert [name.partition(" (")[0] for name in module.cut.first] == ["own row 1, positive", "own row 3, positive"]
    assert "2 of 8 inputs of" in caplog.text
    assert caplog.text.count("lost the end") == 1
    again, saved = make_module(embedder), {"state_dict": {}}
    module.on_save_checkpoint(saved)
    again.on_load_checkpoint(json.loads(json.dumps(saved)))
    assert again.cut == module.cut
    again.on_train_end()
    assert "4 of 16 inputs of training" in caplog.text


def test_embed_says_it(tmp_path, capsys):
    (tmp_path / "texts.txt").write_text(f"{SHORT}\n{'word ' * 3000}\n")
    output = tmp_path / "out.parquet"
    args = ["--output", str(output), "--model", str(TINY), "--store", str(tmp_path / "store")]
    for _ in range(2):
        assert not main(["embed", str(tmp_path / "texts.txt"), *args])
        assert "1 were cut at 2048 tokens" in capsys.readouterr().out
        assert json.loads(pq.read_schema(output).metadata[b"gen2embed"])["items_cut"]["count"] == 1
