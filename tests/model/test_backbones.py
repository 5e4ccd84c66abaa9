"""Families of backbones, by real classes with random weights saved to disk: each gets what its own processor makes of
the same chat, and nothing but an item's content decides its vector."""

import json
import pickle
import unicodedata
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
import transformers
from checkpoints import FAMILIES, make_checkpoint, qwen_like, sentencepiece_like
from conftest import INPUTS, TINY, noise
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, processors
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.smolvlm import processing_smolvlm

from gen2embed import Embedder, Item, UserError
from gen2embed.config.presets import load_preset
from gen2embed.data.items import as_item
from gen2embed.encoding.batch import ChunkLimit
from gen2embed.model.backbone import Backbone, _attention
from gen2embed.model.resolution import Resolution
from gen2embed.model.tokens import PromptTokenizer


@pytest.fixture(scope="module", autouse=True)
def num2words():
    """SmolVLM's processor asks for it, for videos."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processing_smolvlm, "num2words", processing_smolvlm.num2words or str)
        yield


@pytest.fixture(scope="module", params=FAMILIES)
def checkpoint(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    make_checkpoint(request.param, folder)
    return folder


@pytest.fixture(scope="module")
def embedder(checkpoint):
    return load(checkpoint)


def load(folder, **options):
    return Embedder.from_pretrained(folder, **{"resolution": "original", "device": "cpu", **options})


# --- vectors --------------------------------------------------------------------------------------------------------


def test_batches_do_not_change_a_vector(embedder, monkeypatch):
    alone = torch.cat([embedder.encode(value) for value in INPUTS])
    torch.testing.assert_close(alone.norm(dim=-1), torch.ones(len(INPUTS)))
    apart = (alone[:, None] - alone).norm(dim=-1) + torch.eye(len(INPUTS))
    assert apart.min() > 0.05
    for tokens in (150, 10_000):
        torch.testing.assert_close(embedder.encode(INPUTS[::-1], batch_tokens=tokens).flip(0), alone, atol=2e-6, rtol=0)
    monkeypatch.setattr(embedder.backbone.tokenizer, "padding_side", "left")
    assert embedder.build([as_item(value) for value in INPUTS[:2]], "query")["attention_mask"][0, 0] == 0
    torch.testing.assert_close(embedder.encode(INPUTS), alone, atol=2e-6, rtol=0)


def test_packed_rows_are_the_items_alone(embedder):
    """With beginnings that are shared and pictures that come twice; Gemma 3 looks ahead within a picture."""
    two = Item((*as_item({"image": noise(1)}).parts, " and ", *as_item({"image": noise(2, (100, 30))}).parts))
    items = [
        *map(as_item, INPUTS),
        two,
        *(as_item({"image": noise(3, (30, 100)), "text": text}) for text in ("a", "b")),
    ]
    alone = torch.cat([embedder.embed([item], "query") for item in items]).detach()
    assert embedder.packs == (embedder.backbone.model_type != "gemma3")
    for limit in (ChunkLimit(100_000), ChunkLimit(200), ChunkLimit(100_000, 3)):
        for share in (True, False):
            prepared = embedder.prepare([(item, "query") for item in items], limit, share)
            rows = [embedder.embed_chunk(chunk, prepared.pictures) for chunk in prepared.chunks]
            torch.testing.assert_close(torch.cat(rows)[prepared.order].detach(), alone, atol=2e-6, rtol=0)


def varlen(module, query, key, value, attention_mask, scaling=None, is_causal=None, **lengths):
    """What FlashAttention makes of a row of several samples (1, heads, tokens, elements), in plain words."""
    assert attention_mask is None
    assert torch.equal(lengths["cu_seq_lens_q"], lengths["cu_seq_lens_k"])
    key, value = (side.repeat_interleave(query.shape[1] // side.shape[1], dim=1) for side in (key, value))
    causal = module.is_causal if is_causal is None else is_causal
    parts = []
    for start, end in pairwise(lengths["cu_seq_lens_q"].tolist()):
        assert end - start <= lengths["max_length_q"]
        sides = [side[:, :, start:end] for side in (query, key, value)]
        parts.append(torch.nn.functional.scaled_dot_product_attention(*sides, is_causal=causal, scale=scaling))
    return torch.cat(parts, dim=2).transpose(1, 2), None


def test_flash_attention_is_told_the_samples_of_a_row(checkpoint, embedder, monkeypatch):
    """The kernels need a GPU, so a stand-in for them; only rows without common beginnings."""
    if not embedder.packs:
        return
    items = [(item, "query") for item in map(as_item, [*INPUTS, *INPUTS[:2]])]
    alone = torch.cat([embedder.embed([item], "query") for item, _ in items]).detach()
    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, "flash_attention_2", varlen)
    flash = load(checkpoint)
    flash.backbone.full.config.get_text_config()._attn_implementation = "flash_attention_2"
    monkeypatch.setattr(Backbone, "attention", "flash_attention_2")
    prepared = flash.prepare(items, ChunkLimit(800))
    assert sum(chunk.rows for chunk in prepared.chunks) == len(INPUTS)
    rows = [flash.embed_chunk(chunk, prepared.pictures) for chunk in prepared.chunks]
    assert max(chunk.rows for chunk in prepared.chunks) > 1
    torch.testing.assert_close(torch.cat(rows)[prepared.order].detach(), alone, atol=2e-6, rtol=0)


@pytest.mark.slow
def test_compiled_layers_give_the_same_vectors():
    """By the compiler that there is; it takes a minute."""
    plain, compiled = load(TINY), load(TINY, compiled=True)
    assert all(layer._compiled_call_impl for layer in compiled.backbone.full.get_decoder().layers)
    torch.testing.assert_close(compiled.encode(INPUTS), plain.encode(INPUTS), atol=2e-6, rtol=0)


def test_rows_are_padded_where_tokens_do_not_see_all_before_them(embedder, monkeypatch):
    if embedder.backbone.model_type == "gemma3":
        assert embedder.why_padded == "a model of type gemma3 is not known to be causal"
        return
    assert embedder.why_padded is None
    monkeypatch.setattr(embedder.backbone.full.config.get_text_config(), "sliding_window", 50, raising=False)
    assert embedder.why_padded == "its tokens attend to the last 50 only, and model.max_length is 2048"
    assert replace(embedder, build=replace(embedder.build, max_length=50)).packs


def test_items_with_one_and_two_pictures_share_a_batch(embedder):
    two = Item((*as_item({"image": noise(1)}).parts, " and ", *as_item({"image": noise(2, (100, 30))}).parts))
    item = as_item({"image": noise(3), "text": "one"})
    together = embedder.embed([item, two], "query").detach()
    alone = torch.cat([embedder.encode(item), embedder.encode(two)])
    torch.testing.assert_close(together, alone, atol=2e-6, rtol=0)
    swapped = Item((*as_item({"image": noise(2, (100, 30))}).parts, " and ", *as_item({"image": noise(1)}).parts))
    assert (embedder.encode(swapped) - alone[1]).norm() > 0.01


def test_bfloat16_runs_close_to_float32(checkpoint, embedder):
    full, half = embedder.encode(INPUTS), load(checkpoint, dtype="bfloat16").encode(INPUTS)
    assert half.dtype == torch.float32
    assert not torch.equal(full, half)
    assert (full * half).sum(-1).min() > 0.999


# --- inputs ---------------------------------------------------------------------------------------------------------


def own_processor(folder, embedder):
    """The family's own, loaded without us where no video processor is in the way."""
    if embedder.backbone.model_type in ("llava_next", "gemma3"):
        return transformers.AutoProcessor.from_pretrained(folder, backend="pil")
    return embedder.backbone.processor


@pytest.mark.parametrize("with_picture", [False, True])
@pytest.mark.parametrize("prompt", ["hierarchical", "none"])
def test_inputs_and_vectors_are_the_familys_own(checkpoint, embedder, prompt, with_picture):
    embedder = replace(embedder, build=replace(embedder.build, prompt=load_preset("prompt", prompt)))
    picture = noise(4, (120, 70))
    item = Item.create("what  colour\n\nis it? é", picture if with_picture else None)
    written = "what  colour\n\nis it? é" + ("\nRepresent the given text/image in one word." if prompt != "none" else "")
    written = "\n" + written if with_picture else written.replace("text/image", "text")
    messages = [{"role": "user", "content": [{"type": "text", "text": written}]}]
    if with_picture:
        messages[0]["content"].insert(0, {"type": "image"})
    if prompt != "none":
        system = embedder.build.prompt.system["query"]
        messages.insert(0, {"role": "system", "content": [{"type": "text", "text": system}]})

    processor = own_processor(checkpoint, embedder)
    text = processor.tokenizer.apply_chat_template(
        messages, chat_template=processor.chat_template, tokenize=False, add_generation_prompt=True
    )
    bos = processor.tokenizer.bos_token
    theirs = processor(
        text=[text],
        images=[[picture]] if with_picture else None,
        add_special_tokens=bos is None or not text.startswith(bos),  # as its apply_chat_template with tokenize=True
        return_tensors="pt",
    )
    ours = embedder.build([item], "query")
    assert ours["input_ids"].tolist() == theirs["input_ids"].tolist()
    for key in theirs if with_picture else ("attention_mask",):
        assert torch.equal(ours[key], theirs[key]), key
    assert not with_picture or "pixel_values" in ours
    hidden = embedder.backbone.model(**theirs).last_hidden_state[0, -1]
    torch.testing.assert_close(embedder.encode(item)[0], torch.nn.functional.normalize(hidden, dim=0).detach())


def test_typed_special_tokens_stay_text(embedder):
    """Also the image token of LLaVA-NeXT's tokenizer here, which is not flagged as special."""
    processor = embedder.backbone.processor
    added = processor.tokenizer.added_tokens_decoder
    guarded = {index for index, token in added.items() if token.special or token.content == processor.image_token}
    typed = " ".join(added[index].content for index in sorted(guarded))
    image = noise(1)
    plain, typed_ids = (
        [token for token in embedder.build.token_ids(Item.create(text, image), "query") if token in guarded]
        for text in ("x", f"x {typed} y")
    )
    assert plain == typed_ids
    assert torch.isfinite(embedder.encode({"text": typed, "image": image})).all()


def test_inputs_are_built_in_a_process_that_was_not_forked(embedder):
    """What such a worker gets was pickled; here after it was used."""
    items = [
        (Item.create(text, noise(1) if pictured else None), "query") for text, pictured in (("a", True), ("b", False))
    ]
    prepared = [
        prepare(items, ChunkLimit(500)) for prepare in (embedder.prepare, pickle.loads(pickle.dumps(embedder.prepare)))
    ]
    for ours, theirs in zip(*(each.chunks for each in prepared), strict=True):
        assert ours.pictures == theirs.pictures
        assert all(torch.equal(ours.inputs[name], theirs.inputs[name]) for name in ours.inputs)


def test_only_text_is_cut(embedder):
    tokenizer = embedder.backbone.tokenizer
    item = Item.create(" ".join(f"red circle {number}" for number in range(200)), noise(1))
    empty = embedder.build.token_ids(Item.create("", noise(1)), "query")
    limit = len(empty) + 40
    ids = replace(embedder.build, max_length=limit).token_ids(item, "query")
    assert limit - 8 <= len(ids) <= limit
    assert ids[:20] == empty[:20]  # with the BOS where there is one
    after, tail = (tokenizer.decode(tokens).partition("Represent the given")[2] for tokens in (ids, empty))
    assert after == tail != ""
    visual = set(embedder.backbone.processor.image_token_ids)
    assert sum(index in visual for index in ids) == sum(index in visual for index in empty) > 0
    assert "red circle 0" in tokenizer.decode(ids)
    assert "red circle 150" not in tokenizer.decode(ids)


# --- tokens ---------------------------------------------------------------------------------------------------------


def with_end(tokenizer, end):
    """Appends a token, as the tokenizers of some embedders do."""
    ends = [(token, tokenizer.convert_tokens_to_ids(token)) for token in filter(None, (tokenizer.bos_token, end))]
    single = f"{tokenizer.bos_token or ''} $A {end}".strip()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=ends)
    return tokenizer


def with_strip(tokenizer):
    """A special token that takes the white space after it."""
    tokenizer.add_tokens([AddedToken("<|end|>", rstrip=True, normalized=False, special=True)], special_tokens=True)
    return tokenizer


TOKENIZERS = {
    **{style: sentencepiece_like(style) for style in ("legacy", "metaspace", "gemma")},
    "bytes": qwen_like(),
    "end": with_end(qwen_like(), "<|endoftext|>"),
    "both ends": with_end(sentencepiece_like("metaspace"), "</s>"),
    "strip": with_strip(sentencepiece_like("legacy")),
}
WORDS = st.lists(st.sampled_from(["a dog", " red", "  ", "\n", "\n\n", "é", "▁", "circle", "<", ">"]), max_size=6)


@settings(max_examples=60)
@given(st.sampled_from(sorted(TOKENIZERS)), st.lists(st.tuples(WORDS.map("".join), st.integers(0, 8)), max_size=5))
def test_ids_are_the_tokenizers_own_of_the_whole_string(name, turns):
    tokenizer = TOKENIZERS[name]
    specials = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    parts = []
    for text, index in turns:
        parts += [(text, False), (specials[index % len(specials)], True)]
    check_whole(tokenizer, parts)


def test_white_space_that_a_special_token_takes():
    check_whole(TOKENIZERS["strip"], [("a", False), ("<|end|>", True), ("  red", False)])


def check_whole(tokenizer, parts):
    joined = "".join(text for text, _ in parts)
    begun = tokenizer.bos_token is not None and joined.startswith(tokenizer.bos_token)
    assert (
        PromptTokenizer.from_tokenizer(tokenizer)([parts])[0]
        == tokenizer(joined, add_special_tokens=not begun)["input_ids"]
    )


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_special_token_counts_in_trusted_parts_only(name):
    tokenizer = TOKENIZERS[name]
    tokenize = PromptTokenizer.from_tokenizer(tokenizer)
    eos = tokenizer.eos_token
    index = tokenizer.convert_tokens_to_ids(eos)
    bare, typed, written = tokenize(
        [
            [("a ", True), ("dog", False)],
            [("a ", True), (f"{eos}dog", False)],
            [("a " + eos, True), ("dog", False)],
        ]
    )
    assert typed.count(index) == bare.count(index) == written.count(index) - 1
    assert f"{eos}dog" in tokenizer.decode(typed)


def test_runs_alone_would_differ():
    """Why a prompt is tokenised as one string: prefix spaces."""
    for style in ("legacy", "metaspace"):
        tokenizer = TOKENIZERS[style]
        first, second, joined = (tokenizer.encode(text, add_special_tokens=False) for text in ("a ", "dog", "a dog"))
        assert first + second != joined


def test_reference_of_llava_next(tmp_path):
    """The paper's string through the family's tokenizer, which adds its BOS."""
    make_checkpoint("llava_next", tmp_path)
    embedder = load(tmp_path, convention="reference")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    system = embedder.build.prompt.system["query"]
    rendered = f"[INST] {system}\na dog\nRepresent the given text in one word. [/INST]"
    assert embedder.build.token_ids(Item.create("a dog"), "query") == tokenizer(rendered)["input_ids"]
    assert tokenizer(rendered)["input_ids"][0] == tokenizer.bos_token_id
    bare = load(tmp_path, convention="reference", prompt="none")
    inputs = bare.build([Item.create("<|image_1|>\nwhat?", noise(1))], "candidate")
    image = "<image>" * inputs["input_ids"][0].tolist().count(tokenizer.convert_tokens_to_ids("<image>"))
    assert inputs["input_ids"][0].tolist() == tokenizer(f"[INST] {image}\nwhat? [/INST]")["input_ids"]
    assert len(image) > 100
    assert torch.isfinite(bare.encode({"image": noise(1)})).all()


# --- Qwen3-VL-Embedding ---------------------------------------------------------------------------------------------


def published(processor, model, value):
    """Token ids and vector by src/models/qwen3_vl_embedding.py of github.com/QwenLM/Qwen3-VL-Embedding, told again."""
    text, image, instruction = value.get("text"), value.get("image"), value.get("instruction")
    if instruction:
        instruction = instruction.strip()
        if instruction and not unicodedata.category(instruction[-1]).startswith("P"):
            instruction += "."
    content = ([{"type": "image"}] if image else []) + ([{"type": "text", "text": text}] if text else [])
    system = {"role": "system", "content": [{"type": "text", "text": instruction or "Represent the user's input."}]}
    rendered = processor.tokenizer.apply_chat_template(
        [system, {"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    images = [image.resize(budgeted(*image.size))] if image else None
    inputs = processor(text=[rendered], images=images, do_resize=False, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**inputs).last_hidden_state
    return inputs["input_ids"][0].tolist(), torch.nn.functional.normalize(hidden[:, -1], dim=-1)


def budgeted(width, height):
    """qwen_vl_utils: sides to multiples of 32 pixels, the area between 4 and 1800 such squares."""
    sides = [max(32, round(side / 32) * 32) for side in (width, height)]
    if sides[0] * sides[1] > 1800 * 32**2:
        scale = (width * height / (1800 * 32**2)) ** 0.5
        sides = [int(side / scale // 32) * 32 for side in (width, height)]
    elif sides[0] * sides[1] < 4 * 32**2:
        scale = (4 * 32**2 / (width * height)) ** 0.5
        sides = [-int(-side * scale // 32) * 32 for side in (width, height)]
    return sides


PUBLISHED = [
    {"text": "a dog on a beach"},
    {"text": "\n a dog, with white space around \n"},
    {"text": "a dog", "instruction": "Retrieve images or text relevant to the user's query"},
    {"text": "a dog", "instruction": "  Is it a dog?\n"},
    {"text": "a dog", "instruction": "  "},
    {"image": noise(5, (200, 150))},
    {"image": noise(6, (20, 45)), "instruction": "one word"},
    {"image": noise(7, (100, 90)), "text": "what is it?"},
    {"image": noise(7, (100, 90)), "text": "\nwhat is it?", "instruction": "Find it。"},
]


@pytest.mark.parametrize("end", [None, "<|endoftext|>"])
def test_qwen3_vl_embedding_is_the_published_procedure(tmp_path, end):
    """On random weights, with Qwen3-VL's chat template, and for a tokenizer that appends a token to pool and one that
    does not: their procedure leaves that to the tokenizer."""
    make_checkpoint("qwen3_vl", tmp_path)
    if end:
        with_end(transformers.AutoTokenizer.from_pretrained(tmp_path), end).save_pretrained(tmp_path)
    embedder = load(tmp_path, prompt="qwen3_vl_embedding", resolution="qwen3_vl_embedding", max_length=8192)
    processor = load(tmp_path).backbone.processor  # its own; to load it whole takes torchvision, for videos
    model = transformers.Qwen3VLModel.from_pretrained(tmp_path).eval()
    for value in PUBLISHED:
        ids, vector = published(processor, model, value)
        assert (ids[-1] == embedder.backbone.tokenizer.convert_tokens_to_ids("<|endoftext|>")) == bool(end)
        assert embedder.build.token_ids(as_item(value), "query") == ids
        torch.testing.assert_close(embedder.encode(value), vector, atol=1e-6, rtol=0)
        torch.testing.assert_close(embedder.encode(value, role="candidate"), vector, atol=1e-6, rtol=0)
    vectors = embedder.encode(PUBLISHED)
    assert ((vectors[:, None] - vectors).norm(dim=-1) + torch.eye(len(vectors))).min() > 1e-3


def test_qwen3_vl_embeddings_pixel_budget():
    assert [budgeted(1400, 1400), budgeted(1500, 1300)] == [[1344, 1344], [1440, 1248]]
    processor = load_preset("resolution", "qwen3_vl_embedding")
    assert (processor.policy, processor.min_pixels, processor.max_pixels) == ("original", 4 * 32**2, 1800 * 32**2)


# --- attention ------------------------------------------------------------------------------------------------------


def test_attention_is_in_the_fingerprint(caplog):
    vectors = {}
    for name in ("sdpa", "eager"):
        embedder = load(TINY, attn_implementation=name)
        assert embedder.fingerprint["attention"] == name
        vectors[name] = embedder.encode(INPUTS)
    torch.testing.assert_close(vectors["sdpa"], vectors["eager"], atol=1e-5, rtol=0)
    assert not caplog.records


def test_flash_attention_falls_back_and_says_so(caplog):
    embedder = load(TINY, attn_implementation="flash_attention_2")
    assert embedder.fingerprint["attention"] == "sdpa"
    assert [record.getMessage() for record in caplog.records] == [
        "model.attn_implementation=flash_attention_2 falls back to sdpa: the device is the CPU"
    ]


@pytest.mark.parametrize(
    ("device", "dtype", "installed", "reason"),
    [
        ("cpu", "bfloat16", True, "the device is the CPU"),
        ("cuda:0", "float32", True, "it does not compute in float32; set model.dtype=bfloat16"),
        ("cuda", "bfloat16", False, "the package flash-attn is not installed"),
        ("cuda", "bfloat16", True, None),
    ],
)
def test_when_flash_attention_runs(device, dtype, installed, reason, caplog, monkeypatch):
    monkeypatch.setattr("gen2embed.model.backbone.is_flash_attn_2_available", lambda: installed)
    assert _attention("flash_attention_2", device, dtype) == ("sdpa" if reason else "flash_attention_2")
    assert [record.getMessage().partition(": ")[2] for record in caplog.records] == ([reason] if reason else [])


# --- what cannot be loaded ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trust_remote_code", [False, True])
def test_phi_is_refused_before_its_weights_are_read(tmp_path, trust_remote_code):
    remote = {"AutoConfig": "configuration_phi3_v.Phi3VConfig"}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "phi3_v", "auto_map": remote}))
    (tmp_path / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(UserError, match=r"type 'phi3_v'.* model=qwen2_vl_2b"):
        load(tmp_path, trust_remote_code=trust_remote_code)


def test_smolvlm_needs_num2words(tmp_path, monkeypatch):
    monkeypatch.setattr(processing_smolvlm, "num2words", None)
    make_checkpoint("smolvlm", tmp_path)
    with pytest.raises(UserError, match=r"could not be loaded: .*`pip install num2words`"):
        load(tmp_path)


@pytest.mark.parametrize("family", ["smolvlm", "gemma3"])
def test_a_pixel_budget_where_there_is_none(family, tmp_path):
    make_checkpoint(family, tmp_path)
    with pytest.raises(UserError, match=r"resolution.max_pixels means nothing to \w+ImageProcessorPil; leave it null"):
        load(tmp_path, resolution=Resolution("original", max_pixels=1000))


def test_a_slow_tokenizer(monkeypatch):
    monkeypatch.setattr(transformers.TokenizersBackend, "is_fast", False)
    with pytest.raises(UserError, match="has no fast tokenizer but a Qwen2Tokenizer; choose a model"):
        load(TINY)
