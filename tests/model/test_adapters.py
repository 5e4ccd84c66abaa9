"""Adapters: the reference's own loads exactly, whoever saved them; what does not fit or does nothing is an error."""

import json
import shutil
from dataclasses import replace

import peft
import pytest
import torch
from checkpoints import FAMILIES, make_checkpoint
from conftest import GOLDEN, TINY
from safetensors.torch import load_file, save_file
from steps import trained_adapter
from transformers import AutoModelForImageTextToText
from transformers.models.smolvlm import processing_smolvlm

from gen2embed import Embedder, Item, UserError
from gen2embed.config.presets import load_preset
from gen2embed.model.adapter import Full, Lora, describe_targets, save
from gen2embed.model.pretrained import find_adapter

ADAPTER = GOLDEN / "adapter"  # DoRA, saved by peft 0.13 under transformers 4.46: `model.layers`, no `language_model`


def load_golden(prompt, **options):
    options = {"adapter": ADAPTER, "convention": "reference", "resolution": "clip", "device": "cpu", **options}
    return Embedder.from_pretrained(GOLDEN / "checkpoint", prompt=prompt, **options)


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("prompt", ["hierarchical", "none"])
def test_golden_adapter(golden, prompt, merged):
    embedder = load_golden(prompt, merge_adapter=merged)
    vectors = torch.zeros(30, 64)
    for role in ("query", "candidate"):
        rows = [index for index, (_, golden_role) in enumerate(golden["rows"]) if golden_role == role]
        vectors[rows] = embedder.encode([golden["rows"][index][0] for index in rows], role)
    torch.testing.assert_close(vectors, golden["adapted"][prompt], atol=1e-5, rtol=0)
    assert (vectors - golden["vectors"][prompt]).abs().max() > 1e-2
    assert any("lora" in name for name, _ in embedder.backbone.full.named_parameters()) != merged
    assert embedder.fingerprint["adapter"].endswith("merged") == merged


@pytest.mark.parametrize("dora", [False, True])
def test_merged_is_unmerged(tmp_path, dora):
    folder = trained_adapter(tmp_path, Lora(["q_proj", "v_proj", "down_proj", "qkv"], r=4, dora=dora, vision=True))
    inputs = ["a red star", "what is it?", {"image": GOLDEN / "images" / "3.png"}]
    plain, unmerged, merged = (
        Embedder.from_pretrained(path, device="cpu", **options).encode(inputs)
        for path, options in ((TINY, {"resolution": "original"}), (folder, {}), (folder, {"merge_adapter": True}))
    )
    torch.testing.assert_close(merged, unmerged, atol=1e-5, rtol=0)
    assert ((unmerged - plain).abs().amax(dim=1) > 1e-3).all()


def test_what_plain_peft_saves(tmp_path):
    """No card of ours beside it, and a base that it names."""
    model = AutoModelForImageTextToText.from_pretrained(TINY, dtype=torch.float32)
    model = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False))
    model.save_pretrained(tmp_path)
    by_peft = model.eval().get_base_model().model
    embedder = Embedder.from_pretrained(tmp_path, resolution="original", device="cpu")
    inputs = embedder.build([Item.create("a red star")], "query")
    hidden = by_peft(**inputs).last_hidden_state[:, -1]
    expected = torch.nn.functional.normalize(hidden, dim=-1)
    torch.testing.assert_close(embedder.encode("a red star"), expected.detach(), atol=1e-5, rtol=0)


PAPER = load_preset("adapter", "paper")


@pytest.mark.parametrize(
    ("family", "towers"),
    [
        ("tiny", {"language": "down_proj, k_proj, o_proj, q_proj, v_proj: 15 modules"}),
        ("qwen2_5_vl", {"language": "down_proj, k_proj, o_proj, q_proj, v_proj: 10 modules",
                        "vision": "down_proj: 2 modules"}),
        ("llava_next", {"language": "down_proj, k_proj, o_proj, q_proj, v_proj: 10 modules",
                        "vision": "k_proj, out_proj, q_proj, v_proj: 8 modules"}),
    ],
)  # fmt: skip
def test_the_papers_targets_by_family(family, towers, tmp_path):
    path = TINY if family == "tiny" else tmp_path
    if family != "tiny":
        make_checkpoint(family, tmp_path)
    embedder = Embedder.from_pretrained(path, resolution="original", device="cpu")
    assert describe_targets(embedder.backbone) == {}
    backbone = PAPER.attach(embedder.backbone)
    assert describe_targets(backbone) == towers
    config = backbone.full.peft_config["default"]
    assert (config.r, config.lora_alpha, config.lora_dropout, config.use_dora) == (8, 64, 0.1, True)
    assert config.init_lora_weights == "gaussian"


def test_the_vision_tower_is_frozen_unless_chosen(tmp_path):
    """Where a name is of both towers."""
    make_checkpoint("llava_next", tmp_path)
    for vision, towers in ((False, {"language"}), (True, {"language", "vision"})):
        backbone = Embedder.from_pretrained(tmp_path, resolution="original", device="cpu").backbone
        assert set(describe_targets(Lora(["q_proj", "v_proj"], vision=vision).attach(backbone))) == towers
    backbone = Embedder.from_pretrained(TINY, resolution="original", device="cpu").backbone
    with pytest.raises(UserError, match=r"\['qkv'\] match no module .*, and with adapter.vision=true .*qkv"):
        Lora(["qkv"]).attach(backbone)


# --- what cannot be loaded ------------------------------------------------------------------------------------------


def copied(tmp_path, change=None, **settings):
    """The golden adapter with renamed weights, or other settings."""
    folder = tmp_path / "spoilt"
    shutil.copytree(ADAPTER, folder)
    if change:
        weights = change(load_file(folder / "adapter_model.safetensors"))
        save_file(weights, folder / "adapter_model.safetensors")
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, **settings}))
    return folder


def without_a_layer(weights):
    return {name: tensor for name, tensor in weights.items() if "layers.1." not in name}


def with_another_layer(weights):
    return {**weights, **{name.replace("layers.2.", "layers.3."): t.clone() for name, t in weights.items()}}


def wider(weights):
    return {
        name: torch.cat([tensor, tensor]) if "k_proj.lora_B" in name else tensor for name, tensor in weights.items()
    }


def zero(weights):
    return {name: torch.zeros_like(tensor) if "lora_B" in name else tensor for name, tensor in weights.items()}


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        (
            without_a_layer,
            {},
            r"does not fit .*checkpoint: 15 weights are missing and 0 are left over, such as .*",
        ),
        (with_another_layer, {}, r"does not fit .*: 0 weights are missing and 15 are left over, such as .*layers\.3"),
        (wider, {}, r"does not fit .*: .*k_proj.lora_B.weight is \(\d+, 4\) there and \(\d+, 4\) here"),
        (None, {"target_modules": ["wq"]}, r"does not fit .*: Target modules .*wq.* not found"),
        (zero, {"use_dora": False}, r"\d+ are left over"),
    ],
)
def test_weights_that_do_not_fit(tmp_path, change, settings, message):
    with pytest.raises(UserError, match=message):
        load_golden("none", adapter=copied(tmp_path, change, **settings))


def test_an_adapter_that_does_nothing(tmp_path):
    embedder = Embedder.from_pretrained(TINY, resolution="original", device="cpu")
    for dora in (False, True):
        backbone = Lora(["q_proj", "down_proj"], dora=dora).attach(replace(embedder).backbone)
        save(replace(embedder, backbone=backbone), tmp_path / str(dora))
        backbone.full.unload()
        with pytest.raises(UserError, match=r"changes no output of .*checkpoint: it was saved before it was trained"):
            Embedder.from_pretrained(tmp_path / str(dora), device="cpu")


def test_an_adapter_of_the_vision_tower_alone_does_something(tmp_path):
    folder = trained_adapter(tmp_path, Lora(["qkv"], r=4, vision=True))
    assert Embedder.from_pretrained(folder, device="cpu").encode("a dog").shape == (1, 128)


def test_another_base(tmp_path, caplog):
    folder = copied(tmp_path, base_model_name_or_path="some/other-base")
    load_golden("none", adapter=folder)
    assert "names some/other-base as its base; it is loaded onto" in caplog.text
    with pytest.raises(UserError, match="does not name its base; give the base as path"):
        Embedder.from_pretrained(ADAPTER)
    ours = trained_adapter(tmp_path, Lora(["q_proj"]))
    card = json.loads((ours / "gen2embed.json").read_text())
    from_hub = shutil.copytree(ours, tmp_path / "from_hub")
    card["base"]["identity"] = "some/hub-id@0123"
    (from_hub / "gen2embed.json").write_text(json.dumps(card))
    assert Embedder.from_pretrained(TINY, adapter=from_hub, device="cpu").encode("a dog").shape == (1, 128)
    assert "a hub id cannot be compared with a folder: the adapter" in caplog.text
    with pytest.raises(UserError, match=r"was trained on another base: .*tiny/checkpoint .*, and this is .*golden"):
        load_golden("none", adapter=ours)


def test_what_is_no_adapter(tmp_path):
    with pytest.raises(UserError, match=r"the checkpoint folder .*none does not exist"):
        load_golden("none", adapter=tmp_path / "none")
    with pytest.raises(UserError, match=r"is not an adapter: it has no adapter_config.json"):
        load_golden("none", adapter=TINY)
    with pytest.raises(UserError, match=r"nobody/nothing is no folder here, and could not be loaded from the hub: "):
        load_golden("none", adapter="nobody/nothing")
    assert find_adapter(ADAPTER) == ADAPTER
    assert find_adapter(TINY) is None


@pytest.mark.parametrize("family", FAMILIES)
def test_a_fully_tuned_model_of_any_family_loads_again(family, tmp_path, monkeypatch):
    """With all that its processor needs."""
    monkeypatch.setattr(processing_smolvlm, "num2words", str)  # for videos only, and not always installed
    make_checkpoint(family, tmp_path / "base")
    embedder = Embedder.from_pretrained(tmp_path / "base", resolution="original", device="cpu")
    backbone = Full().attach(embedder.backbone)
    with torch.no_grad():
        backbone.model.get_input_embeddings().weight.mul_(1.5)
    inputs = ["a red star", {"image": GOLDEN / "images" / "3.png", "text": "what?"}]
    expected = embedder.encode(inputs)
    save(replace(embedder, backbone=backbone), tmp_path / "tuned")
    again = Embedder.from_pretrained(tmp_path / "tuned", device="cpu")
    torch.testing.assert_close(again.encode(inputs), expected, atol=1e-6, rtol=0)
    assert again.fingerprint["image_processor"] == embedder.fingerprint["image_processor"]
    assert type(again.backbone.processor).__name__ == type(embedder.backbone.processor).__name__ != "PictureProcessor"
