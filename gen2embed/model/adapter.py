"""What of a backbone is trained: LoRA, DoRA or all of it; and how that is saved and loaded.

An adapter's folder is a standard one that `peft` loads, with a card (`card.py`) in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import peft
from safetensors import SafetensorError
from torch import nn

from gen2embed.model.backbone import Backbone
from gen2embed.model.card import CardSettings, base_of, check_weights, read_card, write_card
from gen2embed.model.dora import keep_norms
from gen2embed.model.identity import adapter_identity, differing_files, file_digests, identity_of, is_local
from gen2embed.utils.errors import UserError, first_line
from gen2embed.utils.log import log
from gen2embed.utils.redaction import redacted_text

if TYPE_CHECKING:
    from gen2embed.model.embedder import Embedder


class Adapter(Protocol):
    """A choice of what is trained."""

    def attach(self, backbone: Backbone) -> Backbone:
        """The backbone with the parameters to train, and no others, requiring a gradient."""


@dataclass(frozen=True)
class Lora:
    """LoRA (Hu et al., 2021, arXiv 2106.09685), or DoRA (Liu et al., 2024, arXiv 2402.09353).

    target_modules: ends of module names; those that match nothing in a backbone are left out, but one must match.
    vision: match modules of the vision tower, too.
    """

    target_modules: Sequence[str]
    r: int = 8
    alpha: int = 64
    dropout: float = 0.1
    dora: bool = False
    vision: bool = False

    def attach(self, backbone: Backbone) -> Backbone:
        """Raises `UserError`, with the names that there are, if no target matches.

        An adapter that the backbone already has goes on being trained, with the settings that it has.
        """
        if isinstance(backbone.full, peft.PeftModel):
            for name, parameter in backbone.full.named_parameters():
                parameter.requires_grad_("lora_" in name)
            self._check_targets(backbone)
            log.info("the checkpoint's own adapter is trained further")
            return backbone
        linear = _linear_names(backbone.full)
        there = linear[False] | (linear[True] if self.vision else set())
        matched = sorted(set(self.target_modules) & there)
        if not matched:
            raise UserError(
                f"adapter.target_modules={list(self.target_modules)} match no module of {backbone.name}; its linear "
                f"layers are {', '.join(sorted(there))}, and with adapter.vision=true {', '.join(sorted(linear[True]))}"
            )
        config = peft.LoraConfig(
            r=self.r,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=matched,
            exclude_modules=None if self.vision else VISION,
            init_lora_weights="gaussian",
            use_dora=self.dora,
            revision=backbone.commit,
        )
        full = peft.get_peft_model(backbone.full, config)
        keep_norms(full)
        return replace(backbone, full=full)

    def _check_targets(self, backbone: Backbone) -> None:
        """Raise `UserError` if modules are targeted that are there and that the checkpoint's adapter leaves out."""
        targeted = {name.rpartition(".")[2] for name in backbone.full.base_model.targeted_module_names}
        linear = _linear_names(backbone.full.get_base_model())
        there = linear[False] | (linear[True] if self.vision else set())
        if isinstance(self.target_modules, str) or not (more := set(self.target_modules) & there - targeted):
            return
        raise UserError(
            f"adapter.target_modules names {', '.join(sorted(more))}, which the checkpoint's adapter leaves out; it is "
            "trained further as it is: leave adapter=… out, or train a new one without checkpoint=…"
        )


def _linear_names(model: nn.Module) -> dict[bool, set[str]]:
    """The ends of the names of linear layers, of the vision tower (True) and of the rest, adapted ones included."""
    names: dict[bool, set[str]] = {False: set(), True: set()}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and not re.search(r"lora_|base_layer", name):
            names[is_vision(name)].add(name.rpartition(".")[2])
        elif name.endswith(".base_layer"):
            names[is_vision(name)].add(name.split(".")[-2])
    return names


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
                if is_vision(name):
                    parameter.requires_grad_(False)
        return backbone


def save(embedder: Embedder, folder: Path) -> Embedder:
    """Save the trained weights and a card; return the embedder that knows their identity.

    An adapter is saved by itself; a fully tuned model as a checkpoint, with tokenizer and image processor.
    """
    backbone = embedder.backbone
    backbone.full.save_pretrained(folder)
    if (readme := folder / "README.md").is_file():  # peft's, which names the base's folder
        readme.write_text(redacted_text(readme.read_text()))
    if not isinstance(backbone.full, peft.PeftModel):
        backbone.processor.save_pretrained(folder)
    base = {"name": backbone.name, "identity": backbone.identity, "files": dict(backbone.files)}
    write_card(folder, {**CardSettings.of(embedder).describe(), "base": base})
    if isinstance(backbone.full, peft.PeftModel):
        identity = adapter_identity(folder)
    else:
        identity = identity_of(file_digests(folder, backbone.remote_code))
    return replace(embedder, backbone=replace(backbone, adapter=identity))


def saved_parameters(backbone: Backbone) -> list[nn.Parameter]:
    """What `save` reads."""
    adapted = isinstance(backbone.full, peft.PeftModel)
    return [parameter for parameter in backbone.full.parameters() if parameter.requires_grad or not adapted]


def load(backbone: Backbone, folder: Path) -> Backbone:
    """Load a saved adapter onto its base, for inference or further training.

    Modules that the saving library wrapped under other names are found by the rest of their path.
    Raises `UserError` if the adapter was trained on another base, or if a weight is missing or left over.
    """
    base = read_card(folder).get("base", {})
    named, _ = base_of(folder)
    if base and not backbone.is_identified_by(base["identity"]):
        said = f"{base['name']} ({base['identity']}), and this is {backbone.name} ({backbone.identity})"
        if is_local(base["identity"]) == is_local(backbone.identity):
            name, _, commit = base["identity"].rpartition("@")
            remedy = f"model.revision={commit}" if name == backbone.name else "model.path to its base"
            unlike = differing_files(base.get("files", {}), backbone.files)
            raise UserError(f"the adapter {folder} was trained on another base: {said}{unlike}; set {remedy}")
        log.warning("a hub id cannot be compared with a folder: the adapter %s was trained on %s", folder, said)
    if not base and named and Path(named).name != Path(backbone.name).name:
        log.warning("the adapter %s names %s as its base; it is loaded onto %s", folder, named, backbone.name)
    check_weights(folder)
    does_not_fit = f"the adapter {folder} does not fit {backbone.name}"
    try:
        config = peft.PeftConfig.from_pretrained(str(folder), inference_mode=True)
        model: Any = peft.PeftModel(backbone.full, config)
        saved = peft.utils.load_peft_weights(str(folder), device="cpu")
    except (ValueError, SafetensorError) as error:
        raise UserError(f"{does_not_fit}: {first_line(error)}") from error
    wanted = peft.get_peft_model_state_dict(model)
    names = _renamed(saved, wanted)
    if set(names.values()) != set(wanted):
        missing, left = set(wanted) - set(names.values()), set(names.values()) - set(wanted)
        raise UserError(
            f"{does_not_fit}: {len(missing)} weights are missing and {len(left)} are left over, such as "
            f"{min(missing | left)}"
        )
    for name, its in names.items():
        if saved[name].shape != wanted[its].shape:
            shapes = f"{tuple(saved[name].shape)} there and {tuple(wanted[its].shape)} here"
            raise UserError(f"{does_not_fit}: {its} is {shapes}; set model.path to its base")
    peft.set_peft_model_state_dict(model, {names[name]: tensor for name, tensor in saved.items()})
    keep_norms(model)
    model.requires_grad_(False)
    model.eval()
    model.to(backbone.device)
    return replace(backbone, full=model, adapter=adapter_identity(folder), adapter_folder=folder)


def merge(backbone: Backbone) -> Backbone:
    """The backbone with its adapter's weights added to its own: the same embeddings, up to rounding, faster."""
    assert isinstance(backbone.full, peft.PeftModel)
    full = backbone.full.merge_and_unload(safe_merge=True)
    return replace(backbone, full=full, adapter=f"{backbone.adapter}, merged")


def matched(backbone: Backbone) -> dict[str, str]:
    """What an adapter was put on, by tower: the ends of the modules' names and how many modules they are."""
    if not isinstance(backbone.full, peft.PeftModel):
        return {}
    towers: dict[str, list[str]] = {}
    targeted: list[str] = backbone.full.base_model.targeted_module_names  # type: ignore[assignment]
    for name in targeted:
        towers.setdefault("vision" if is_vision(name) else "language", []).append(name.rpartition(".")[2])
    return {tower: f"{', '.join(sorted(set(ends)))}: {len(ends)} modules" for tower, ends in sorted(towers.items())}


VISION = r".*(visual|vision).*"  # names of what belongs to the vision tower


def is_vision(name: str) -> bool:
    """Whether a module or parameter belongs to the vision tower."""
    return re.fullmatch(VISION, name) is not None


WRAPPERS = {"model", "language_model"}  # what transformers put around the layers, in one version or another


def _renamed(saved: Iterable[str], wanted: Iterable[str]) -> dict[str, str]:
    """For each saved weight its name here: itself, or the only one with the same path but for the wrappers."""

    def bare(name: str) -> str:
        return ".".join(part for part in name.split(".") if part not in WRAPPERS)

    here: dict[str, list[str]] = {}
    for name in wanted:
        here.setdefault(bare(name), []).append(name)
    found = {name: here.get(bare(name), []) for name in saved}
    return {name: its[0] if len(its) == 1 else name for name, its in found.items()}
