"""What of a backbone is trained: LoRA, DoRA or all of it; and how that is saved and loaded.

An adapter's folder is a standard one that `peft` loads. Beside it lies `gen2embed.json`: the prompt, the resolution and
the base model that it was trained with.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import peft
from torch import nn

from gen2embed.encoder.backbone import Backbone
from gen2embed.encoder.store import differences
from gen2embed.files import digest_files, write_atomic
from gen2embed.images import Resolution
from gen2embed.log import log
from gen2embed.prompts import Prompt
from gen2embed.types import UserError

CARD = "gen2embed.json"


class Adapter(Protocol):
    """A choice of what is trained."""

    def attach(self, backbone: Backbone) -> Backbone:
        """The backbone with the parameters to train, and no others, requiring a gradient."""


@dataclass(frozen=True)
class Lora:
    """LoRA (Hu et al., 2021, arXiv 2106.09685), or DoRA (Liu et al., 2024, arXiv 2402.09353).

    target_modules: ends of module names; those that match nothing in a backbone are left out, but one must match.
    """

    target_modules: Sequence[str]
    r: int = 8
    alpha: int = 64
    dropout: float = 0.1
    dora: bool = False

    def attach(self, backbone: Backbone) -> Backbone:
        """Raises `UserError`, with the names that there are, if no target matches.

        An adapter that the backbone already has goes on being trained, with the settings that it has.
        """
        if isinstance(backbone.full, peft.PeftModel):
            for name, parameter in backbone.full.named_parameters():
                parameter.requires_grad_("lora_" in name)
            log.info("the checkpoint's own adapter is trained further; the settings of adapter=... are not used")
            return backbone
        modules = backbone.full.named_modules()
        linear = {name.rpartition(".")[2] for name, module in modules if isinstance(module, nn.Linear)}
        matched = sorted(set(self.target_modules) & linear)
        if not matched:
            raise UserError(
                f"adapter.target_modules={list(self.target_modules)} match no module of {backbone.name}; "
                f"its linear layers are {', '.join(sorted(linear))}"
            )
        config = peft.LoraConfig(
            r=self.r,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=matched,
            init_lora_weights="gaussian",
            use_dora=self.dora,
        )
        return replace(backbone, full=peft.get_peft_model(backbone.full, config))


@dataclass(frozen=True)
class Full:
    """Full fine-tuning. vision: train the vision tower, too."""

    vision: bool = False

    def attach(self, backbone: Backbone) -> Backbone:
        """Raises `UserError` for a backbone that has an adapter."""
        if isinstance(backbone.full, peft.PeftModel):
            raise UserError("adapter=full cannot go on from an adapter; choose adapter=lora, or a whole checkpoint")
        backbone.model.requires_grad_(True)
        if not self.vision:
            for name, parameter in backbone.model.named_parameters():
                if "visual" in name or "vision" in name:
                    parameter.requires_grad_(False)
        return backbone


def save(backbone: Backbone, prompt: Prompt, resolution: Resolution, folder: Path) -> Backbone:
    """Save what was trained; returns the backbone that knows the digest of it.

    An adapter is saved by itself; a fully tuned model as a checkpoint, with tokenizer and image processor.
    """
    backbone.full.save_pretrained(folder)
    if not isinstance(backbone.full, peft.PeftModel):
        for part in (backbone.processor.tokenizer, backbone.processor.image_processor):
            part.save_pretrained(folder)
    card = {
        "prompt": prompt.describe(),
        "resolution": resolution.describe(),
        "base": {"name": backbone.name, "identity": backbone.identity},
    }
    write_atomic(folder / CARD, lambda file: file.write(json.dumps(card, indent=2).encode()))
    return replace(backbone, adapter=digest_files(folder.glob("*.safetensors")))


def load(backbone: Backbone, folder: Path) -> Backbone:
    """Load a saved adapter onto its base, for inference or further training.

    Raises `UserError` if the folder holds no adapter, if it was trained on another base, or if a weight is missing or
    left over.
    """
    check_adapter(folder)
    base = read_card(folder).get("base", {})
    if base and base["identity"] != backbone.identity:
        raise UserError(
            f"the adapter {folder} was trained on another base: {base['name']} ({base['identity']}), and this is "
            f"{backbone.name} ({backbone.identity}); set model.path to its base"
        )
    model: Any = peft.PeftModel.from_pretrained(backbone.full, str(folder))
    saved = set(peft.utils.load_peft_weights(str(folder), device="cpu"))
    wanted = set(peft.get_peft_model_state_dict(model))
    if saved != wanted:
        raise UserError(
            f"the adapter {folder} does not fit {backbone.name}: {len(wanted - saved)} weights are missing and "
            f"{len(saved - wanted)} are left over, such as {min(saved ^ wanted)}"
        )
    model.requires_grad_(False)
    model.eval()
    model.to(backbone.device)
    return replace(backbone, full=model, adapter=digest_files(folder.glob("*.safetensors")))


def check_adapter(folder: Path) -> None:
    """Raise `UserError` unless the folder holds an adapter. Loads nothing."""
    if not is_adapter(folder):
        state = "has no adapter_config.json" if folder.is_dir() else "does not exist"
        raise UserError(f"the adapter folder {folder} {state}")


def is_adapter(path: str | Path) -> bool:
    return (Path(path) / "adapter_config.json").is_file()


def base_of(folder: str | Path) -> str:
    """The base model that an adapter names."""
    base = json.loads((Path(folder) / "adapter_config.json").read_text()).get("base_model_name_or_path")
    if not base:
        raise UserError(f"the adapter {folder} does not name its base model; give the base as path, and it as adapter")
    return base


def read_card(folder: str | Path) -> dict[str, Any]:
    """The prompt, resolution and base that a checkpoint carries; empty for one that was not made here."""
    card = Path(folder) / CARD
    return json.loads(card.read_text()) if card.is_file() else {}


def card_differences(card: dict[str, Any], prompt: Prompt, resolution: Resolution) -> list[str]:
    """In words, what differs between what a checkpoint was trained with and what is asked for."""
    here = json.loads(json.dumps({"prompt": prompt.describe(), "resolution": resolution.describe()}))
    return differences({key: card[key] for key in here if key in card}, {key: here[key] for key in here if key in card})
