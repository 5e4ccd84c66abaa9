"""What decides an embedding is in the fingerprint, and what does not is not: one change at a time."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import TINY

from gen2embed import Embedder, UserError
from gen2embed.mining.clusters import Clusters, check_miner
from gen2embed.model.adapter import Lora, save
from gen2embed.model.card import CARD, read_card
from gen2embed.model.identity import deciding_files, earlier_identity, weight_files

SETTINGS = {"resolution": "original", "device": "cpu"}


def load(folder: Path, **settings) -> Embedder:
    return Embedder.from_pretrained(folder, **{**SETTINGS, **settings})


def rewrite(path: Path, change) -> None:
    """Change the object in a JSON file."""
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


@pytest.fixture
def base(tmp_path) -> Path:
    shutil.copytree(TINY, tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def adapter(base, tmp_path) -> Path:
    model = load(base)
    backbone = Lora(["q_proj"], r=4, alpha=8).attach(model.backbone)
    for name, parameter in backbone.full.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.05)
    save(replace(model, backbone=backbone), tmp_path / "adapter")
    return tmp_path / "adapter"


# --- identities that were written down ------------------------------------------------------------------------------


def test_an_adapter_of_an_earlier_version_loads_onto_its_very_base(base, adapter, tmp_path):
    card = read_card(adapter)
    card["base"] = {"name": card["base"]["name"], "identity": earlier_identity(base)}
    assert card["base"]["identity"].startswith("weights:")
    (adapter / CARD).write_text(json.dumps(card))
    model = load(adapter)
    assert model.backbone.adapter.startswith("files:")
    mined = Clusters(tmp_path / "clusters.parquet", [], {"embedding": {"model": earlier_identity(base)}})
    check_miner(mined, model.backbone.identity, model.backbone.is_identified_by)
    with pytest.raises(UserError, match="mined with another model"):
        check_miner(mined, model.backbone.identity)
    rewrite(base / "config.json", lambda config: config["text_config"].update(rms_norm_eps=1e-4))
    with pytest.raises(UserError, match="trained on another base"):
        load(adapter)


def test_an_adapter_names_the_files_in_which_its_base_differs(base, adapter):
    (base / "chat_template.jinja").write_text((base / "chat_template.jinja").read_text() + " ")
    with pytest.raises(UserError, match=r"another base.*chat_template.jinja differ"):
        load(adapter)


def test_an_adapter_is_known_by_what_its_settings_decide(adapter):
    model = load(adapter)
    rewrite(
        adapter / "adapter_config.json", lambda config: config.update(base_model_name_or_path=f"{model.backbone.name}/")
    )
    assert load(adapter).fingerprint == model.fingerprint
    rewrite(adapter / "adapter_config.json", lambda config: config.update(lora_alpha=16))
    changed = load(adapter)
    assert changed.fingerprint["adapter"] != model.fingerprint["adapter"]
    assert (changed.encode("a dog") - model.encode("a dog")).abs().max() > 1e-4


# --- which weights are read -----------------------------------------------------------------------------------------


def test_weights_that_transformers_does_not_open_decide_nothing(base):
    files = deciding_files(base)
    for name in ("pytorch_model.bin", "model.fp16.safetensors", "consolidated.safetensors", "training_args.bin"):
        (base / name).write_bytes(b"other weights")
    assert deciding_files(base) == files
    assert weight_files(base) == [base / "model.safetensors"]
    (base / "model.safetensors").unlink()
    assert weight_files(base) == [base / "pytorch_model.bin"]
