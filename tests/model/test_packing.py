"""Packed rows: a sample's last token sees its sample, all of it and nothing else, at its own positions."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from checkpoints import make_checkpoint
from conftest import INPUTS, noise
from hypothesis import given
from hypothesis import strategies as st
from steps import load

from gen2embed import Item, UserError
from gen2embed.data.items import as_item
from gen2embed.encoding.batch import ChunkLimit
from gen2embed.encoding.engine import Engine
from gen2embed.model.chunks import rows_and_columns
from gen2embed.model.packing import Sample, attention_mask, pack
from gen2embed.model.vision import FeatureCache, Features

ITEMS = [as_item(value) for value in INPUTS]


def text(ids):
    return Sample(np.array(ids), np.arange(len(ids))[None], (), np.full(len(ids), -1))


def pictured(before, pictures, after):
    """`before`, then each picture as three tokens of the same id, then `after`."""
    ids = [*before, *[9] * 3 * len(pictures), *after]
    visual = [*[-1] * len(before), *np.repeat(range(len(pictures)), 3), *[-1] * len(after)]
    return Sample(np.array(ids), np.arange(len(ids))[None], tuple(pictures), np.array(visual))


words = st.lists(st.integers(0, 2), min_size=1, max_size=6)
limits = st.builds(ChunkLimit, st.integers(1, 40), st.none() | st.integers(1, 3))
texts = st.lists(words.map(text), min_size=1, max_size=8)
pictures = st.lists(st.sampled_from("ab"), min_size=1, max_size=2)
seeing = st.lists(st.builds(pictured, words, pictures, words), min_size=1, max_size=8)


@given(texts | seeing, limits, st.booleans())
def test_each_sample_is_a_branch(samples, limit, share):
    chunks, order = pack(samples, limit, share)
    read = []
    for chunk in chunks:
        ids, positions = chunk.inputs["input_ids"][0], chunk.inputs["position_ids"][0]
        tokens = iter([digest for digest in chunk.pictures for _ in range(3)])
        seen = [next(tokens) if index == 9 else None for index in ids.tolist()]
        assert next(tokens, None) is None
        for last in chunk.inputs["last"].tolist():
            branch = attention_mask(chunk.inputs["ends"])[0, 0, last].nonzero()[:, 0].tolist()
            read.append((ids[branch].tolist(), positions[branch].tolist(), [seen[at] for at in branch]))
    for sample, place in zip(samples, order.tolist(), strict=True):
        expected = [sample.pictures[index] if index >= 0 else None for index in sample.visual]
        assert read[place] == (sample.ids.tolist(), sample.positions[0].tolist(), expected)
    assert len(set(order.tolist())) == len(read)


@given(texts, limits)
def test_rows_keep_within_the_limit(samples, limit):
    chunks, _ = pack(samples, limit)
    for chunk in chunks:
        assert chunk.rows == 1 or chunk.inputs["input_ids"].shape[1] <= limit.tokens
        assert chunk.rows <= (limit.rows or chunk.rows)


def test_what_samples_begin_alike_stands_once():
    samples = [pictured([1, 2], "a", [3]), pictured([1, 2], "a", [4, 5]), pictured([1, 2], "b", [3])]
    (chunk,), order = pack(samples, ChunkLimit(100))
    assert chunk.inputs["input_ids"].tolist() == [[1, 2, 9, 9, 9, 3, 9, 9, 9, 3, 4, 5]] or sorted(chunk.pictures) == [
        "a",
        "b",
    ]
    assert chunk.inputs["input_ids"].shape == (1, 2 + 3 + 1 + 2 + 3 + 1)
    (chunk,), apart = pack(samples, ChunkLimit(100), share=False)
    assert chunk.inputs["input_ids"].shape == (1, 6 + 7 + 6)
    assert len(set(order.tolist())) == len(set(apart.tolist())) == 3
    same, order = pack([text([1, 2]), text([1]), text([1, 2])], ChunkLimit(100))
    assert (same[0].rows, order[0], order[1] == order[0]) == (2, order[2], False)


# --- positions ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def qwen(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    make_checkpoint(request.param, folder)
    return load(folder, convention="native")


def test_positions_are_the_models_own(qwen):
    item = Item((*ITEMS[2].parts, " and ", *as_item({"image": noise(4, (140, 84))}).parts, *ITEMS[4].parts, "what?"))
    inputs = qwen.build([item], "query")
    theirs, _ = qwen.backbone.model.get_rope_index(
        inputs["input_ids"], inputs["mm_token_type_ids"], inputs["image_grid_thw"]
    )
    prepared = qwen.prepare([(item, "query")], ChunkLimit(10_000))
    assert torch.equal(prepared.chunks[0].inputs["position_ids"], theirs)
    assert not torch.equal(theirs[0], theirs[1])


def test_pictures_side_by_side():
    positions = rows_and_columns(np.array([-1, 0, 0, 1, 1, 1, 1, -1]), [np.array([1, 2]), np.array([2, 2])])
    assert positions.tolist() == [[0, 1, 1, 3, 3, 3, 3, 5], [0, 1, 1, 3, 3, 4, 4, 5], [0, 1, 2, 3, 4, 3, 4, 5]]


# --- the engine -----------------------------------------------------------------------------------------------------


def one_by_one(embedder, items=ITEMS):
    return torch.cat([embedder.embed([item], "query") for item in items]).detach()


@pytest.mark.parametrize("options", [{}, {"packing": False}, {"attn_implementation": "eager"}])
def test_items_embedded_together_are_those_alone(options):
    embedder = load(**options)
    assert embedder.packs == options.get("packing", True)
    for engine in (Engine(), Engine(100), Engine(workers=2)):
        vectors = engine.encode(embedder, ITEMS, "query").vectors
        torch.testing.assert_close(vectors, one_by_one(embedder), atol=2e-6, rtol=0)


def test_a_picture_is_seen_once(tiny, monkeypatch):
    embedder, runs = replace(tiny, feature_cache=FeatureCache(2**20)), []
    see = type(tiny.backbone.model).get_image_features
    monkeypatch.setattr(
        type(tiny.backbone.model),
        "get_image_features",
        lambda self, **inputs: runs.append(len(inputs["image_grid_thw"])) or see(self, **inputs),
    )
    items = [Item.create(f"question {number}", noise(picture)) for number in range(2) for picture in range(3)]
    first = embedder.encode(items)
    assert sum(runs) == 3
    again = embedder.encode(items, "candidate")
    assert sum(runs) == 3
    runs.clear()
    forgetful = replace(tiny, feature_cache=FeatureCache(0))
    torch.testing.assert_close(forgetful.encode(items), first, atol=1e-6, rtol=0)
    torch.testing.assert_close(forgetful.encode(items, "candidate"), again, atol=1e-6, rtol=0)
    assert sum(runs) == 6


def test_pictures_are_forgotten_where_there_is_no_room():
    seen = FeatureCache(capacity=2 * 4 * 10)
    for digest in "abc":
        seen.add(digest, Features(torch.zeros(10)))
        seen.get("a")
    assert [seen.get(digest) is not None for digest in "abc"] == [True, False, True]
    with torch.autocast("cpu", torch.bfloat16):
        assert seen.get("a") is None  # it would be another one


class Short:
    """An embedder whose device has memory for so many tokens."""

    def __init__(self, embedder, most):
        self.embedder, self.most, self.rows = embedder, most, 0

    def __getattr__(self, name):
        return getattr(self.embedder, name)

    def embed_chunk(self, chunk, pictures):
        if chunk.inputs["input_ids"].numel() > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        self.rows += chunk.rows
        return self.embedder.embed_chunk(chunk, pictures)


def test_with_too_little_memory_it_goes_on_with_less_at_a_time(tiny, tmp_path, caplog):
    engine = Engine(batch_tokens=250, store=tmp_path, shard_size=3)
    short = Short(tiny, 100)
    encoded = engine.encode(short, ITEMS, "query")
    torch.testing.assert_close(encoded.vectors, one_by_one(tiny), atol=2e-6, rtol=0)
    assert short.rows == len(ITEMS)  # nothing was embedded twice
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == [f"memory did not suffice; going on with engine.batch_tokens={tokens}" for tokens in (125, 62)]
    with pytest.raises(torch.OutOfMemoryError):
        Engine(batch_tokens=1000).encode(Short(tiny, 10), ITEMS, "query")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_picture_that_is_cut_off(tiny, tmp_path, workers):
    path = tmp_path / "p.png"
    noise(1).save(path)
    path.write_bytes(path.read_bytes()[:1000])
    item = Item.create("", path)
    with pytest.raises(UserError, match=rf"^the file {path} is not a picture that can be read"):
        Engine(workers=workers).encode(tiny, [item], "query")


def test_bad_sizes():
    with pytest.raises(UserError, match=r"engine.batch_tokens is at least 1; got -1"):
        Engine(batch_tokens=-1)
