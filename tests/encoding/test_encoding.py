"""The encoding path: the reference's token ids and vectors, and what must not change a vector."""

import importlib.util
from dataclasses import replace

import pytest
import torch
from conftest import GOLDEN, INPUTS, TINY, noise
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file

from gen2embed import Embedder, Item, UserError
from gen2embed.data.items import as_item
from gen2embed.model.resolution import Resolution


def load_golden(prompt, **options):
    options = {"convention": "reference", "resolution": "clip", "device": "cpu", **options}
    return Embedder.from_pretrained(GOLDEN / "checkpoint", prompt=prompt, **options)


def encode_rows(embedder, rows):
    out = torch.zeros(len(rows), 64)
    for role in ("query", "candidate"):
        index = [i for i, (_, golden_role) in enumerate(rows) if golden_role == role]
        out[index] = embedder.encode([rows[i][0] for i in index], role=role)
    return out


@pytest.mark.parametrize("prompt", ["hierarchical", "none"])
def test_golden_ids_and_vectors(golden, prompt):
    embedder = load_golden(prompt)
    ids = [embedder.build.token_ids(as_item(value), role) for value, role in golden["rows"]]
    assert len(ids) == 30
    assert ids == golden["ids"][prompt]
    torch.testing.assert_close(encode_rows(embedder, golden["rows"]), golden["vectors"][prompt], atol=1e-5, rtol=0)


def test_golden_needs_one_dimensional_positions(golden, monkeypatch):
    """With the model's own M-RoPE positions on the same ids, rows with pictures differ and texts do not."""
    embedder = load_golden("hierarchical", packing=False)
    pad = type(embedder.build).pad

    def without_positions(*args):
        return {key: value for key, value in pad(*args).items() if key != "position_ids"}

    monkeypatch.setattr(type(embedder.build), "pad", without_positions)
    cosine = (encode_rows(embedder, golden["rows"]) * golden["vectors"]["hierarchical"]).sum(-1)
    pictured = torch.tensor([bool(value["image"]) for value, _ in golden["rows"]])
    assert pictured.sum() == 16
    assert (cosine[pictured] < 0.9).all()
    assert (cosine[~pictured] > 1 - 1e-5).all()


def test_native_ids_are_the_processors_own():
    """Against the chat template applied by the tokenizer itself to the whole string."""
    embedder = load_golden("hierarchical", convention="native")
    tokenizer = embedder.backbone.tokenizer
    item = Item.create("what colour?", Image.new("RGB", (60, 60)))
    ids = embedder.build.token_ids(item, "query")
    content = [
        {"type": "image"},
        {"type": "text", "text": "\nwhat colour?\nRepresent the given text/image in one word."},
    ]
    system = embedder.build.prompt.system["query"]
    messages = [{"role": "system", "content": system}, {"role": "user", "content": content}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    text = text.replace("<|image_pad|>", "<|image_pad|>" * ids.count(tokenizer.convert_tokens_to_ids("<|image_pad|>")))
    assert ids == tokenizer(text)["input_ids"]
    assert ids.count(tokenizer.convert_tokens_to_ids("<|image_pad|>")) == 64  # 224 pixels of the budget, 28 a token


@pytest.fixture(scope="module", params=["native", "reference"])
def embedder(request, tiny):
    build = replace(tiny.build, prompt=replace(tiny.build.prompt, convention=request.param))
    return replace(tiny, build=build)


def test_vectors_are_unit_and_differ(embedder):
    vectors = embedder.encode(INPUTS)
    assert vectors.dtype == torch.float32
    assert vectors.device.type == "cpu"
    assert not vectors.requires_grad
    torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(len(INPUTS)))
    apart = (vectors[:, None] - vectors).norm(dim=-1) + torch.eye(len(INPUTS))
    assert apart.min() > 1e-3


@pytest.mark.parametrize("tokens", [1, 120, 10_000])
def test_batches_and_order(embedder, tokens):
    alone = torch.cat([embedder.encode(value) for value in INPUTS])
    torch.testing.assert_close(embedder.encode(INPUTS, batch_tokens=tokens), alone, atol=1e-5, rtol=0)
    torch.testing.assert_close(embedder.encode(INPUTS[::-1], batch_tokens=tokens), alone.flip(0), atol=1e-5, rtol=0)


def test_padding_side(embedder, monkeypatch):
    right = embedder.encode(INPUTS)
    monkeypatch.setattr(embedder.backbone.tokenizer, "padding_side", "left")
    padded = embedder.build([as_item(value) for value in INPUTS[:2]], "query")
    assert padded["attention_mask"][0, 0] == 0
    plain = replace(embedder, packing=False)
    torch.testing.assert_close(plain.encode(INPUTS), right, atol=1e-5, rtol=0)


def test_equal_inputs_are_embedded_once(embedder, monkeypatch):
    rows, plain = [], type(embedder).embed_chunk
    monkeypatch.setattr(
        type(embedder), "embed_chunk", lambda self, chunk, *rest: rows.append(chunk.rows) or plain(self, chunk, *rest)
    )
    vectors = embedder.encode(["a", "b", "a", {"image": noise(1)}, {"image": noise(1)}, {"text": "a"}])
    assert sum(rows) == 3
    assert torch.equal(vectors[0], vectors[2])
    assert torch.equal(vectors[3], vectors[4])


def test_roles_differ_by_the_suffix_only(tiny):
    assert not torch.allclose(tiny.encode("a dog", role="query"), tiny.encode("a dog", role="candidate"), atol=1e-3)
    none = Embedder.from_pretrained(TINY, prompt="none", resolution="original", device="cpu")
    assert torch.equal(none.encode("a dog", role="query"), none.encode("a dog", role="candidate"))


def test_pictures_by_path_and_in_memory_agree(tiny, tmp_path):
    noise(5).save(tmp_path / "p.png")
    by_path = tiny.encode([{"image": str(tmp_path / "p.png")}, {"image": tmp_path / "p.png"}])
    torch.testing.assert_close(by_path, tiny.encode({"image": noise(5)}).expand(2, -1))


# --- length ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("image", [None, noise(1)])
@pytest.mark.parametrize("limit", [80, 100])
def test_only_text_is_cut(embedder, image, limit):
    short = replace(embedder, build=replace(embedder.build, max_length=limit))
    words = " ".join(f"red circle {number}" for number in range(200))
    item, tail = as_item({"text": words, "image": image}), as_item({"text": "", "image": noise(1)} if image else "red")
    ids, untruncated = short.build.token_ids(item, "query"), embedder.build.token_ids(tail, "query")
    assert limit - 2 <= len(ids) <= limit
    suffix = len(embedder.backbone.tokenizer("in one word.<|im_end|>\n<|im_start|>assistant\n")["input_ids"])
    assert ids[-suffix:] == untruncated[-suffix:]
    pad = embedder.backbone.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    assert ids.count(pad) == untruncated.count(pad) == (9 if image else 0)
    text = embedder.backbone.tokenizer.decode(ids)
    assert "red circle 0 red circle 1" in text
    assert "red circle 150" not in text
    short.encode([item, "b"])


def test_visual_tokens_alone_too_long(tiny, tmp_path):
    picture = tmp_path / "huge.png"
    noise(1, (112, 112)).save(picture)
    short = replace(tiny, build=replace(tiny.build, max_length=60))
    message = (
        r"needs \d+ tokens without any of its own text, 16 of them visual, and max_length is 60: picture .*huge.png"
    )
    with pytest.raises(UserError, match=message):
        short.encode({"image": picture, "text": "some words " * 100})


SPECIAL = ["<|im_end|>", "<|im_start|>", "<|image_pad|>", "<|vision_start|>", "<|endoftext|>", "<|video_pad|>"]


@settings(max_examples=30)
@given(st.lists(st.sampled_from([*SPECIAL, "<|image_1|>", " a", "\n", "é"]), min_size=1, max_size=6), st.booleans())
def test_special_tokens_in_text_stay_text(tiny, texts, with_picture):
    text = "x" + "".join(texts)
    tokenizer = tiny.backbone.tokenizer
    special = set(tokenizer.convert_tokens_to_ids(SPECIAL))
    image = noise(1) if with_picture else None
    plain, typed = (
        [token for token in tiny.build.token_ids(Item.create(value, image), "query") if token in special]
        for value in ("x", text)
    )
    assert plain == typed
    assert tiny.encode({"text": text, "image": image}).shape == (1, 128)


def test_literal_image_token_batches_with_pictures(golden):
    """A marker without a picture is an image token of its own in `reference`: it must not take a picture's features."""
    embedder = load_golden("none")
    (literal, _), (pictured, _) = golden["rows"][-1], golden["rows"][12]
    together = embedder.encode([literal, pictured])
    torch.testing.assert_close(together[:1], embedder.encode(literal), atol=1e-6, rtol=0)
    torch.testing.assert_close(together[1:], embedder.encode(pictured), atol=1e-6, rtol=0)


# --- parts ----------------------------------------------------------------------------------------------------------


def test_several_pictures_in_one_item(tiny):
    parts = (*as_item({"image": noise(1)}).parts, " and ", *as_item({"image": noise(2)}).parts)
    in_order, swapped = tiny.encode([Item(parts), Item(parts[::-1])])
    assert (in_order - swapped).norm() > 1e-3


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("", "needs a text or a picture"),
        ({"text": ""}, "needs a text or a picture"),
        ({"txt": "a"}, "an input has text, image and instruction; got txt"),
        ({"image": 3}, "an image is a path or a PIL picture; got int"),
        (3, "an input is a text, a dict or an Item; got int"),
        ({"image": "nowhere.png"}, "1 of 1 pictures are missing: nowhere.png; check the paths"),
    ],
)
def test_bad_inputs(tiny, value, message):
    with pytest.raises(UserError, match=message):
        tiny.encode([value])


def test_bad_role(tiny):
    with pytest.raises(UserError, match="role 'passage' is unknown; choose one of query, candidate"):
        tiny.encode("a", role="passage")


def test_unknown_presets():
    with pytest.raises(UserError, match=r"prompt 'nice' is unknown; choose one of hierarchical, none, qwen3_vl_embed"):
        Embedder.from_pretrained(TINY, prompt="nice")
    with pytest.raises(UserError, match=r"resolution 'nice' is unknown"):
        Embedder.from_pretrained(TINY, resolution="nice")


def test_bad_checkpoints(tmp_path):
    with pytest.raises(UserError, match=r"the model folder .*/none does not exist"):
        Embedder.from_pretrained(tmp_path / "none")
    with pytest.raises(UserError, match="not a Hugging Face checkpoint"):
        Embedder.from_pretrained(tmp_path)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"):
        (tmp_path / name).write_bytes((TINY / name).read_bytes())
    with pytest.raises(UserError, match="has no weights"):
        Embedder.from_pretrained(tmp_path)


def test_weights_that_do_not_fill_the_model(tmp_path):
    for file in TINY.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    del weights[next(name for name in weights if name.endswith("q_proj.weight"))]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"does not fill the model: 1 weights, such as .*q_proj"):
        Embedder.from_pretrained(tmp_path)


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is not None, reason="torchvision is installed")
def test_a_backend_that_is_not_there_is_no_silent_fallback():
    with pytest.raises(UserError, match=r"resolution.backend=torchvision is not available: .*ProcessorPil; install"):
        Embedder.from_pretrained(TINY, resolution=Resolution("original", backend="torchvision"))


def test_an_embedding_that_is_not_finite(tiny, monkeypatch):
    monkeypatch.setattr(type(tiny), "embed_chunk", lambda self, chunk, _: torch.full((chunk.rows, 2), torch.nan))
    with pytest.raises(UserError, match="the embedding of text 'a dog' is not finite"):
        tiny.encode("a dog")


def test_hub_id_that_cannot_be_reached():
    with pytest.raises(UserError, match="the model Qwen/none could not be loaded"):
        Embedder.from_pretrained("Qwen/none")


def test_pixel_budget(tiny):
    small = Embedder.from_pretrained(TINY, resolution=Resolution("original", max_pixels=56 * 56), device="cpu")
    pad = tiny.backbone.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    item = as_item({"image": noise(1)})
    assert [e.build.token_ids(item, "query").count(pad) for e in (tiny, small)] == [9, 4]
    assert small.fingerprint != tiny.fingerprint
