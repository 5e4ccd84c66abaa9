"""The store: reused for the very same embedding only, and whole after a kill."""

import json

import numpy as np
import pytest
import torch
from conftest import Fake

from gen2embed import Embedder, Item, UserError
from gen2embed.config.presets import PACKAGE
from gen2embed.encoding.engine import Engine
from gen2embed.encoding.store import EmbeddingStore
from gen2embed.utils.fingerprints import differences, fingerprint_digest

TINY = PACKAGE / "tiny" / "checkpoint"
THINGS = [f"{colour} {shape}" for colour in ("red", "blue") for shape in ("star", "ring", "moon")]
ITEMS = [Item.create(f"a {thing} {number}") for number in range(5) for thing in THINGS]


class Counting(Fake):
    """A model of which only the fingerprint and the count of embedded items matter."""

    def __init__(self, fingerprint, fail_after=None):
        self.fingerprint, self.embedded, self.fail_after = fingerprint, 0, fail_after

    def embed(self, items, role):
        if self.fail_after is not None and self.embedded >= self.fail_after:
            raise KeyboardInterrupt
        self.embedded += len(items)
        return torch.tensor([[float(len(part)) for part in (item.texts[0], role)] for item in items])


def test_write_and_read(tmp_path):
    store = EmbeddingStore(tmp_path, {"model": "m"})
    vectors = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    store.write(["a", "b"], vectors[:2])
    store.write(["c", "d"], vectors[2:])
    for opened in (store, EmbeddingStore(tmp_path, {"model": "m"})):
        assert len(opened) == 4
        assert "e" not in opened
        np.testing.assert_array_equal(opened.read(["d", "a", "a"]), vectors[[3, 0, 0]])
    assert {path.suffix for path in tmp_path.iterdir()} == {".npy", ".json"}


def test_another_prompt_is_refused_by_name(tmp_path):
    named, spoken = ({"model": "m", "prompt": {"system": {"query": text}}} for text in ("Name it.", "Say it."))
    EmbeddingStore(tmp_path, spoken).write(["a"], np.ones((1, 2)))
    message = r"are not reused: prompt.system.query is 'Say it.' there and 'Name it.' here"
    with pytest.raises(UserError, match=message):
        EmbeddingStore(tmp_path, named)


def test_prompts_of_real_embedders_do_not_mix(tmp_path, caplog):
    engine = Engine(store=tmp_path)
    with caplog.at_level("INFO", "gen2embed"):
        for prompt in ("hierarchical", "system"):
            embedder = Embedder.from_pretrained(TINY, prompt=prompt, resolution="original", device="cpu")
            encoded = engine.encode(embedder, ITEMS[:4], "query")
            assert (encoded.computed, encoded.reused) == (4, 0)
            assert engine.encode(embedder, ITEMS[:4], "query").reused == 4
    assert len(list(tmp_path.iterdir())) == 2
    assert "no embeddings are reused" in caplog.text
    assert (
        "prompt.suffix.query.text is '\\nRepresent the given text in one word.' there and nothing here" in caplog.text
    )


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"resolution": "clip"}, "resolution.policy"),
        ({"convention": "reference"}, "prompt.convention"),
        ({"max_length": 512}, "max_length"),
        ({"dtype": "bfloat16"}, "dtype"),
    ],
)
def test_everything_that_decides_is_in_the_fingerprint(tiny, change, key):
    changed = Embedder.from_pretrained(TINY, **{"resolution": "original", "device": "cpu", **change})
    assert fingerprint_digest(changed.fingerprint) != fingerprint_digest(tiny.fingerprint)
    assert [line.split(" is ")[0] for line in differences(tiny.fingerprint, changed.fingerprint)] == [key]


def test_weights_are_in_the_fingerprint(tiny, tmp_path):
    for file in TINY.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    moved = Embedder.from_pretrained(tmp_path, resolution="original", device="cpu")
    assert moved.fingerprint == tiny.fingerprint
    weights = bytearray((tmp_path / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (tmp_path / "model.safetensors").write_bytes(weights)
    changed = Embedder.from_pretrained(tmp_path, resolution="original", device="cpu")
    assert changed.fingerprint["model"] != tiny.fingerprint["model"]


def test_a_stopped_run_goes_on(tmp_path):
    engine = Engine(batch_tokens=4, store=tmp_path, shard_size=8)
    stopped, resumed, complete = (Counting({"model": 1}, fail_after) for fail_after in (20, None, None))
    with pytest.raises(KeyboardInterrupt):
        engine.encode(stopped, ITEMS, "query")
    assert stopped.embedded == 20
    encoded = engine.encode(resumed, ITEMS, "query")
    assert (encoded.reused, encoded.computed, resumed.embedded) == (16, 14, 14)  # two whole shards were kept
    assert torch.equal(encoded.vectors, Engine(4).encode(complete, ITEMS, "query").vectors)


def test_a_half_written_shard_counts_as_missing(tmp_path):
    engine = Engine(batch_tokens=4, store=tmp_path, shard_size=8)
    engine.encode(Counting({"model": 1}), ITEMS, "query")
    (folder,) = tmp_path.iterdir()
    sorted(folder.glob("*.ids.npy"))[0].unlink()
    assert engine.encode(Counting({"model": 1}), ITEMS, "query").computed in (8, 6)


def test_the_manifest_spells_the_fingerprint_out(tmp_path, tiny):
    Engine(store=tmp_path).encode(tiny, ITEMS[:1], "query")
    (manifest,) = tmp_path.glob("*/manifest.json")
    assert json.loads(manifest.read_text()) == tiny.fingerprint


def test_bad_sizes():
    with pytest.raises(UserError, match=r"engine.batch_tokens is at least 1; got 0"):
        Engine(batch_tokens=0)
