"""The Python API beyond plain vectors: smaller ones, their similarity, saving and uploading; and scores by size."""

import io
import json
import pickle

import huggingface_hub as hub
import numpy as np
import pytest
import torch
from conftest import INPUTS, SIZE, TINY, noise
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from malformed import png_of
from PIL import Image
from steps import trained_adapter
from vectors import Given, task

from gen2embed import Embedder, Item, UserError
from gen2embed.data.benchmark import Benchmark
from gen2embed.data.pictures import load_picture
from gen2embed.encoding.compression import BLOCK, PRECISIONS, Compression, compress, similarity, size_in_bytes
from gen2embed.encoding.engine import Engine
from gen2embed.evaluation.evaluate import evaluate
from gen2embed.model.adapter import Lora
from gen2embed.model.pretrained import find_source
from gen2embed.model.prompts import Prompt
from gen2embed.runs.console import compression_table, print_table
from gen2embed.types import ImagePart


def unit(rows, width=128, seed=0, outlier=8):
    """Random unit vectors, one element of which is often large, as language models have it."""
    vectors = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))
    vectors[:, 3] *= outlier
    return torch.nn.functional.normalize(vectors, dim=-1)


# --- smaller vectors ------------------------------------------------------------------------------------------------


def test_codes_against_loops():
    vectors = unit(5)
    for row, codes in zip(vectors.tolist(), compress(vectors, None, "int8").tolist(), strict=True):
        assert codes == pytest.approx([127 * x / max(map(abs, row)) for x in row], abs=0.5 + 1e-4)
        assert max(map(abs, codes)) == 127
    for row, codes in zip(vectors.tolist(), compress(vectors, None, "binary").tolist(), strict=True):
        bits = "".join("01"[x > 0] for x in row)
        assert codes == [int(bits[start : start + 8], 2) for start in range(0, 128, 8)]
    cut = compress(vectors, 40, "float32")
    torch.testing.assert_close(cut, vectors[:, :40] / vectors[:, :40].norm(dim=1, keepdim=True))
    assert compress(vectors, 128, "float32") is vectors


def test_binary_codes_are_those_of_sentence_transformers():
    quantize = pytest.importorskip("sentence_transformers.util").quantize_embeddings
    np.testing.assert_array_equal(compress(unit(9), 64, "binary").numpy(), quantize(unit(9)[:, :64], "ubinary"))


@settings(max_examples=30)
@given(arrays(np.float32, (4, 16), elements=st.floats(-1, 1, width=16)), st.sampled_from(PRECISIONS))
def test_codes_know_no_company(values, precision):
    vectors = torch.nn.functional.normalize(torch.tensor(values) + 0.001, dim=-1)
    alone = torch.cat([compress(row[None], 8, precision) for row in vectors])
    assert torch.equal(compress(vectors, 8, precision), alone)


@pytest.mark.parametrize("dim", [128, 64])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_similarity_is_near_the_cosine(dim, precision):
    """Of random vectors, the signs agree as much as their angle says (Goemans and Williamson, 1995)."""
    queries, candidates = (unit(n, seed=n, outlier=1 if precision == "binary" else 8) for n in (6, BLOCK + 9))
    cosines = compress(queries, dim, "float32") @ compress(candidates, dim, "float32").T
    expected = cosines.asin() * 2 / torch.pi if precision == "binary" else cosines
    scores = similarity(compress(queries, dim, precision), compress(candidates, dim, precision))
    assert scores.dtype == torch.float32
    deviation = {"float32": 1e-7, "int8": 0.002, "binary": dim**-0.5}[precision]
    assert (scores - expected).abs().max() < 5 * deviation
    assert (scores - expected).mean().abs() < 0.1 * deviation
    own = similarity(*[compress(candidates[:5], dim, precision)] * 2).diagonal()
    torch.testing.assert_close(own, torch.ones(5), atol=1e-6, rtol=0)


def test_similarity_of_codes_against_loops():
    ints = torch.full((1, 140_000), -127, dtype=torch.int8)  # the products' sum is beyond int32
    assert similarity(ints, -ints).tolist() == [[-1.0]]
    bits = [[torch.randint(0, 2, (24,)).tolist() for _ in range(rows)] for rows in (3, 4)]
    packed = [torch.tensor(np.packbits(side, axis=1)) for side in bits]
    agreement = [[sum((a == b) - (a != b) for a, b in zip(q, c, strict=True)) / 24 for c in bits[1]] for q in bits[0]]
    torch.testing.assert_close(similarity(*packed), torch.tensor(agreement))
    exact = similarity(unit(3), compress(unit(4, seed=1), None, "int8"))  # of two precisions
    torch.testing.assert_close(exact, unit(3) @ unit(4, seed=1).T, atol=0.02, rtol=0)


def test_sizes_and_precisions_that_cannot_be_had(tiny):
    for options, message in (
        ({"truncate_dim": 129}, "vectors of 129 elements cannot be cut from the model's 128; choose 1 to 128"),
        ({"truncate_dim": 0}, "vectors of 0 elements"),
        ({"truncate_dim": 12, "precision": "binary"}, "12 elements are not; choose a multiple of 8"),
        ({"precision": "int4"}, "precision 'int4' is unknown; choose one of float32, int8, binary"),
    ):
        with pytest.raises(UserError, match=message):
            tiny.encode("a dog", **options)
    with pytest.raises(UserError, match=r"128 elements cannot be compared with candidates of 64; .* one truncate_dim"):
        similarity(unit(1), unit(1, 64))
    with pytest.raises(UserError, match="vectors are float32, int8 or, of binary, uint8; got int64"):
        similarity(torch.ones(1, 8, dtype=torch.int64), unit(1, 8))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_encode_at_a_size_and_precision(tiny, precision):
    full = tiny.encode(INPUTS, "candidate")
    codes = tiny.encode(INPUTS, "candidate", truncate_dim=64, precision=precision)
    assert torch.equal(codes, compress(full, 64, precision))
    assert codes.element_size() * codes.shape[1] == size_in_bytes(64, precision)
    assert tiny.encode([], truncate_dim=64, precision=precision).shape == (0, codes.shape[1])
    assert torch.equal(tiny.similarity(codes, codes), similarity(codes, codes))


def test_long_input_shows_a_bar(tiny, capfd):
    tiny.encode(["a dog"] * 300)
    assert "encoding" not in capfd.readouterr().err
    tiny.encode([f"a dog {number}" for number in range(300)])
    assert "300/300" in capfd.readouterr().err


# --- saved and loaded again -----------------------------------------------------------------------------------------

CHOSEN = Prompt(system={"query": "Say it."}, suffix={"candidate": {"text": "\nIn one word."}})


def test_a_saved_base_is_the_same_embedder(tmp_path, caplog):
    embedder = Embedder.from_pretrained(TINY, prompt=CHOSEN, resolution="original", device="cpu")
    embedder.save_pretrained(tmp_path / "saved")
    again = Embedder.from_pretrained(tmp_path / "saved", device="cpu")
    assert (again.build.prompt, again.build.resolution) == (CHOSEN, embedder.build.resolution)
    for role in ("query", "candidate"):
        assert torch.equal(again.encode(INPUTS, role), embedder.encode(INPUTS, role))
    assert not caplog.text
    with pytest.raises(UserError, match=r"saved is not empty: .*; name a new folder"):
        embedder.save_pretrained(tmp_path / "saved")


@pytest.mark.parametrize("merged", [False, True])
def test_a_saved_adapter_is_the_same_embedder(tmp_path, merged):
    folder = trained_adapter(tmp_path, Lora(["q_proj", "down_proj"], r=4))
    embedder = Embedder.from_pretrained(folder, device="cpu", merge_adapter=merged)
    embedder.save_pretrained(tmp_path / "saved")
    assert (tmp_path / "saved/adapter_model.safetensors").exists() != merged
    assert (tmp_path / "saved/model.safetensors").exists() == merged
    again = Embedder.from_pretrained(tmp_path / "saved", device="cpu")
    torch.testing.assert_close(again.encode(INPUTS), embedder.encode(INPUTS), atol=1e-6, rtol=0)
    assert again.build.resolution == embedder.build.resolution


# --- without the hub (with it: test_hub.py) ------------------------------------------------------------------------


def test_an_upload_says_what_its_readers_will_miss(tmp_path, caplog):
    adapted = Embedder.from_pretrained(trained_adapter(tmp_path, Lora(["q_proj"])), device="cpu")
    with pytest.raises(UserError, match=r"the model could not be uploaded to me/adapter: .*; see `hf auth login`"):
        adapted.push_to_hub("me/adapter")
    assert "with adapter=me/adapter" in caplog.text


def test_what_a_repository_carries_cannot_be_asked(monkeypatch, caplog):
    assert find_source("me/unknown").card == {}
    assert "asked about me/unknown, which is taken to be a base alone: Cannot" in caplog.text
    caplog.clear()
    known = hub.HfApi().resolve_revision("me/unknown", revision="0" * 40)
    monkeypatch.setattr(hub.HfApi, "resolve_revision", lambda *_, **__: known)
    assert find_source("me/unknown").card == {}
    assert "asked whether me/unknown has a gen2embed.json" in caplog.text
    caplog.clear()
    monkeypatch.setattr(hub, "try_to_load_from_cache", lambda *_, **__: hub._CACHED_NO_EXIST)
    assert find_source("me/unknown").card == {}
    assert not caplog.text


# --- scores by size and precision -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def benchmark():
    rng = np.random.default_rng(0)
    tasks = (task("a", "one", rng, width=16), task("b", "one", rng, size=4, width=16), task("c", "two", rng, width=16))
    return Benchmark("given", tasks, {"one": ["a", "b"], "two": ["c"], "three": ["absent"]})


def test_scores_by_size_and_precision_against_loops(benchmark, capsys):
    def spelled(item):
        vector = np.array([float(x) for x in item.texts[0].split()])
        return torch.tensor(vector / np.linalg.norm(vector), dtype=torch.float32)[None]

    result = evaluate(Normed(), Engine(4), benchmark, resamples=10, compression=Compression([16, 8]))
    by_setting = {(entry["dim"], entry["precision"]): entry for entry in result.scores["compression"]}
    assert list(by_setting) == [(dim, precision) for dim in (16, 8) for precision in PRECISIONS]
    plain = [result.scores["tasks"][name] for name in ("a", "b", "c")]
    assert by_setting[16, "float32"]["precision@1"] == pytest.approx(np.mean([task["precision@1"] for task in plain]))
    assert by_setting[16, "float32"]["pessimistic"] == pytest.approx(np.mean([task["pessimistic"] for task in plain]))
    assert result.scores["overall"] is None  # "three" was not run
    for (dim, precision), entry in by_setting.items():
        right = {}
        for ranking in benchmark.tasks:
            for query, choices in zip(ranking.queries, ranking.choices, strict=True):
                codes = [
                    compress(spelled(item), dim, precision)
                    for item in (query, *(ranking.candidates[i] for i in choices))
                ]
                scores = [round(float(similarity(codes[0], code)), 5) for code in codes[1:]]
                right.setdefault(ranking.name, []).append(scores.index(max(scores)) == 0)
        means = {name: np.mean(values) for name, values in right.items()}
        assert entry["precision@1"] == pytest.approx(np.mean(list(means.values())))
        assert entry["groups"] == pytest.approx({"one": (means["a"] + means["b"]) / 2, "two": means["c"]})
        assert entry["bytes"] == {"float32": 4 * dim, "int8": dim, "binary": dim / 8}[precision]
        assert entry["pessimistic"] <= entry["precision@1"]
    assert by_setting[8, "binary"]["pessimistic"] < by_setting[8, "binary"]["precision@1"]  # ties of few bits are shown
    assert len({round(entry["precision@1"], 6) for entry in by_setting.values()}) > 3
    print_table(compression_table(result.scores))
    shown = capsys.readouterr().out
    assert "binary" in shown
    assert f"{100 * by_setting[8, 'binary']['pessimistic']:.1f}" in shown


class Normed(Given):
    def embed(self, items, role):
        return torch.nn.functional.normalize(super().embed(items, role), dim=-1)


def test_eval_leaves_scores_by_size(run_script, world, tmp_path):
    args = [
        f"benchmark.folder={world.folder}",
        f"benchmark.queries={SIZE['queries']}",
        "bootstrap=10",
        "engine.store=null",
    ]
    args += ["benchmark.subsets=[shape,t2i]", f"output_dir={tmp_path / 'out'}"]
    outcome = run_script("eval.py", *args, "compression=default", "compression.precisions=[float32,binary]")
    assert outcome.code == 0, outcome.err
    results = json.loads((tmp_path / "out/results.json").read_text())
    sizes = [(entry["dim"], entry["precision"], entry["bytes"]) for entry in results["compression"]]
    expected = [
        (dim, name, dim * bits // 8) for dim in (128, 64, 32, 16) for name, bits in (("float32", 32), ("binary", 1))
    ]
    assert sizes == expected
    assert set(results["compression"][0]["groups"]) == {results["tasks"][name]["group"] for name in ("shape", "t2i")}
    assert "by size and precision of the vectors" in outcome.out
    outcome = run_script("eval.py", *args, "compression=default", "compression.dims=[256]")
    assert outcome.code == 1
    assert "error: vectors of 256 elements cannot be cut from the model's 128" in outcome.err
    outcome = run_script("eval.py", *args, "compression=default", "compression.precisions=[int4]")
    assert outcome.code == 1
    assert "compression.precisions" in outcome.err


# --- inputs that are none -------------------------------------------------------------------------------------------


def cut_jpeg():
    full, part = io.BytesIO(), io.BytesIO()
    noise(1, (200, 200)).save(full, "JPEG")
    part.write(full.getvalue()[:3000])
    return Image.open(part)


def closed(folder):
    noise(1).save(folder / "closed.png")
    picture = Image.open(folder / "closed.png")
    picture.close()
    return picture


def bomb():
    """As it comes from somebody who raised Pillow's own bound."""
    return Image.open(io.BytesIO(png_of(50_000, 4_000)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda _: Image.new("RGB", (50, 50)).crop((10, 10, 10, 40)), "has no pixels: it is 0x30"),
        (lambda _: Image.new("RGB", (0, 0)), "has no pixels"),
        (lambda _: Image.new("I", (56, 56)), r"greys of 32 bits \(mode I\)"),
        (lambda _: Image.fromarray(np.zeros((56, 56), np.float32)), r"greys of 32 bits \(mode F\)"),
        (lambda _: cut_jpeg(), "cannot be read: .*truncated"),
        (closed, "cannot be read"),
        (lambda _: bomb(), "more than 178,956,970; make it smaller"),
    ],
)
def test_a_broken_picture_in_memory_is_named_before_any_is_embedded(tiny, tmp_path, monkeypatch, make, message):
    monkeypatch.setattr(Embedder, "embed_chunk", lambda *_: pytest.fail("something was embedded"))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    for value in ({"image": make(tmp_path)}, Item.create("a", make(tmp_path))):
        with pytest.raises(UserError, match=rf"input 1: the image .*{message}"):
            tiny.encode(["a fine text", value])
    with pytest.raises(UserError):
        load_picture(ImagePart(make(tmp_path)))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "I;16", "I;16B"])
def test_every_other_mode_is_embedded(tiny, mode):
    picture = noise(1).convert("L") if mode.startswith("I;16") else noise(1)
    stored = Image.new(mode, (28, 28), 7) if mode.startswith("I;16") else picture.convert(mode if mode != "PA" else "P")
    assert tiny.encode({"image": stored}).isfinite().all()


def test_the_first_frame_of_what_moves_and_what_was_opened(tiny, tmp_path):
    """A file that was deleted after it was opened is still readable."""
    noise(1).save(tmp_path / "a.gif", save_all=True, append_images=[noise(2)])
    opened = Image.open(tmp_path / "a.gif")
    expected = tiny.encode({"image": tmp_path / "a.gif"})
    (tmp_path / "a.gif").unlink()
    torch.testing.assert_close(tiny.encode({"image": opened}), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["i.tiff", "gone.png", "text.png"])
def test_a_broken_file_is_named_with_its_input(tiny, tmp_path, name):
    Image.new("I", (56, 56)).save(tmp_path / "i.tiff")
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(UserError, match=name):
        tiny.encode(["fine", {"image": tmp_path / name}])


def test_a_misspelt_file_is_suggested(tiny, tmp_path):
    noise(1).save(tmp_path / "flower.png")
    for name in ("Flower.PNG", "flowr.png", "flower.pngg"):
        with pytest.raises(UserError, match=r"input 1: 1 of 1 pictures are missing.*did you mean .*flower\.png"):
            tiny.encode(["fine", {"image": str(tmp_path / name)}])


RAW = b"\x89PNG\r\n\x1a\n" + bytes(30)
BASE64 = "data:image/png;base64," + "iVBORw0KGgo" + "A" * 130_000


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"image": "https://example.com/c.jpg"}, "is an address; download"),
        ({"image": "file:///pictures/x.png"}, "without file://"),
        ({"image": BASE64}, "is a picture in base64"),
        ({"image": BASE64.partition(",")[2]}, "is a picture in base64"),
        ({"image": RAW}, r"an image is a path or a PIL picture; got bytes; open"),
        ({"image": np.zeros((56, 56, 3), np.uint8)}, "got ndarray; make a picture"),
        ({"image": torch.zeros(3, 56, 56)}, "got Tensor; make a picture"),
        ({"image": [noise(1), noise(1)]}, "got list of 2"),
        ({"image": {"bytes": RAW, "path": None}}, "got dict of 2"),
        (noise(1), 'got Image; write {"image": ...} around it'),
        (["a", "b"], "got list of 2"),
        (None, "an input is a text, a dict or an Item; got NoneType"),
        (5, "got int '5'"),
        (float("nan"), "got float 'nan'"),
        (RAW, "got bytes; open"),
        ({"text": 5}, "the text is a text or None; got int"),
        ({"text": "a", "instruction": 5}, "the instruction is a text or None; got int"),
        ({"role": "user", "content": []}, "an input has text, image and instruction; got content, role"),
        ({"text": None, "image": None}, "needs a text or a picture"),
    ],
)
def test_what_is_no_input_is_named_by_its_index(tiny, value, message):
    with pytest.raises(UserError) as error:
        tiny.encode(["fine", value])
    assert "input 1: " in str(error.value)
    assert message in str(error.value)
    assert len(str(error.value)) < 400


def test_inputs_are_one_or_a_list(tiny):
    assert tiny.encode([]).shape == (0, 128)
    for form in (np.array(["a", "b"]), (text for text in "ab"), ("a", "b")):
        assert tiny.encode(form).shape == (2, 128)
    for form in (None, 5, RAW, noise(1), np.array(5)):
        with pytest.raises(UserError, match="inputs are texts, dicts or Items, one or a list of them; got "):
            tiny.encode(form)


def test_items_of_other_types():
    for make in (
        lambda: Item.create(5),
        lambda: Item.create("a", RAW),
        lambda: Item.create("a", "https://example.com/c.jpg"),
        lambda: Item(()),
        lambda: Item(("a", noise(1))),
        lambda: Item(("a",), 5),
    ):
        with pytest.raises(UserError):
            make()


def test_similarity_takes_rows_of_tensors():
    for queries, got in (
        (unit(1).numpy(), "ndarray"),
        (unit(1)[0], r"shape \(128,\)"),
        ([[1.0]], "list"),
        (None, "None"),
    ):
        with pytest.raises(UserError, match=rf"queries are rows of a tensor.*{got}"):
            similarity(queries, unit(2))
        with pytest.raises(UserError, match="candidates are rows"):
            similarity(unit(2), queries)


def test_a_long_value_in_a_message_is_cut():
    assert len(str(UserError("a " + "x" * 130_000 + " b"))) < 250
    assert str(UserError("a " + "x" * 200)) == "a " + "x" * 200
    assert len(str(UserError("word " * 100_000))) < 5000
    assert str(pickle.loads(pickle.dumps(UserError("x" * 999)))) == str(UserError("x" * 999))
