"""Choose which parameters of a backbone are trained (LoRA, DoRA or all), and save and load them.

An adapter's folder is a standard one that `peft` loads, with a card (`card.py`) in it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import peft
from safetensors import SafetensorError
from torch import Tensor, nn

from gen2embed.model.backbone import Backbone
from gen2embed.model.card import CardSettings, base_of, check_weights, read_card, write_card
from gen2embed.model.dora import keep_norms
from gen2embed.model.identity import adapter_identity, differing_files, file_digests, identity_of, is_local
from gen2embed.model.weight_names import current_names
from gen2embed.utils.errors import UserError, first_line
from gen2embed.utils.log import log
from gen2embed.utils.redaction import redacted_text

if TYPE_CHECKING:
    from gen2embed.model.embedder import Embedder


@dataclass(frozen=True)
class Lora:
    """LoRA (Hu et al., 2021, arXiv 2106.09685), or DoRA (Liu et al., 2024, arXiv 2402.09353).

    Args:
        target_modules: Ends of module names. Those that match nothing in a backbone are left out, but one must match.
        r, alpha: The update is B A * alpha / r, with A and B of rank r.
        dropout: The share of the update's inputs that training drops.
        dora: Whether the weights' magnitudes are trained as well (DoRA).
        vision: Whether modules of the vision tower match, too.
    """

    target_modules: Sequence[str]
    r: int = 8
    alpha: int = 64
    dropout: float = 0.1
    dora: bool = False
    vision: bool = False

    def attach(self, backbone: Backbone) -> Backbone:
        """Return the backbone in which the adapter's parameters, and no others, require a gradient.

        An adapter that the backbone already has is trained further, with its own settings.

        Raises:
            UserError: If no target matches; the message lists the names of linear layers.
        """
        if isinstance(backbone.full, peft.PeftModel):
            for name, parameter in backbone.full.named_parameters():
                parameter.requires_grad_("lora_" in name)
            self._check_targets(backbone)
            log.info("the checkpoint's own adapter is trained further")
            return backbone
        config = peft.LoraConfig(
            r=self.r,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=self._match(backbone),
            exclude_modules=None if self.vision else VISION,
            init_lora_weights="gaussian",
            use_dora=self.dora,
            revision=backbone.commit,
        )
        full = peft.get_peft_model(backbone.full, config)
        keep_norms(full)
        return replace(backbone, full=full)

    def check(self, backbone: Backbone) -> None:
        """Raise `UserError`, with the names that there are, if no target matches."""
        check = self._check_targets if isinstance(backbone.full, peft.PeftModel) else self._match
        check(backbone)

    def _match(self, backbone: Backbone) -> list[str]:
        """Return the targets that a backbone without an adapter has."""
        linear = _linear_names(backbone.full)
        present = linear[False] | (linear[True] if self.vision else set())
        if not (matched := sorted(set(self.target_modules) & present)):
            raise UserError(
                f"adapter.target_modules={list(self.target_modules)} match no module of {backbone.name}; its linear "
                f"layers are {', '.join(sorted(present))}, and with adapter.vision=true "
                f"{', '.join(sorted(linear[True]))}"
            )
        return matched

    def _check_targets(self, backbone: Backbone) -> None:
        """Raise `UserError` for targets that the backbone has and the checkpoint's adapter leaves out."""
        targeted = {name.rpartition(".")[2] for name in backbone.full.base_model.targeted_module_names}
        linear = _linear_names(backbone.full.get_base_model())
        names = linear[False] | (linear[True] if self.vision else set())
        if isinstance(self.target_modules, str) or not (more := set(self.target_modules) & names - targeted):
            return
        raise UserError(
            f"adapter.target_modules names {', '.join(sorted(more))}, which the checkpoint's adapter leaves out; it is "
            "trained further as it is: leave adapter=… out, or train a new one without checkpoint=…"
        )


def _linear_names(model: nn.Module) -> dict[bool, set[str]]:
    """Return the ends of the names of linear layers in the vision tower (True) and elsewhere, adapted ones included."""
    names: dict[bool, set[str]] = {False: set(), True: set()}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and not re.search(r"lora_|base_layer", name):
            names[is_vision(name)].add(name.rpartition(".")[2])
        elif name.endswith(".base_layer"):
            names[is_vision(name)].add(name.split(".")[-2])
    return names


@dataclass(frozen=True)
class Full:
    """Full fine-tuning, of the vision tower as well if `vision` is set."""

    vision: bool = False

    def check(self, backbone: Backbone) -> None:
        """Raise `UserError` for a backbone that has an adapter."""
        if isinstance(backbone.full, peft.PeftModel):
            raise UserError("adapter=full cannot go on from an adapter; choose adapter=lora, or a whole checkpoint")

    def attach(self, backbone: Backbone) -> Backbone:
        """Return the backbone with the parameters to train; raises `UserError` if it has an adapter."""
        self.check(backbone)
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
    write_card(folder, {**CardSettings.from_embedder(embedder).describe(), "base": base})
    if isinstance(backbone.full, peft.PeftModel):
        identity = adapter_identity(folder)
    else:
        identity = identity_of(file_digests(folder, backbone.remote_code))
    return replace(embedder, backbone=replace(backbone, adapter=identity))


def saved_parameters(backbone: Backbone) -> list[nn.Parameter]:
    """Return the parameters that `save` reads."""
    adapted = isinstance(backbone.full, peft.PeftModel)
    return [parameter for parameter in backbone.full.parameters() if parameter.requires_grad or not adapted]


def load(backbone: Backbone, folder: Path) -> Backbone:
    """Load a saved adapter onto its base; raises `UserError` for another base, or weights that do not fit."""
    _check_base(backbone, folder)
    check_weights(folder)
    misfit = f"the adapter {folder} does not fit {backbone.name}"
    try:
        config = peft.PeftConfig.from_pretrained(str(folder), inference_mode=True)
        model: Any = peft.PeftModel(backbone.full, config)
        saved = peft.utils.load_peft_weights(str(folder), device="cpu")
    except (ValueError, SafetensorError) as error:
        raise UserError(f"{misfit}: {first_line(error)}") from error
    peft.set_peft_model_state_dict(model, _fitting(saved, peft.get_peft_model_state_dict(model), misfit))
    keep_norms(model)
    model.requires_grad_(False)
    model.eval()
    model.to(backbone.device)
    return replace(backbone, full=model, adapter=adapter_identity(folder), adapter_folder=folder)


def _check_base(backbone: Backbone, folder: Path) -> None:
    """Raise `UserError` if the card of an adapter names another base; warn where that cannot be told."""
    base = read_card(folder).get("base", {})
    named, _ = base_of(folder)
    if base and not backbone.is_identified_by(base["identity"]):
        bases = f"{base['name']} ({base['identity']}), and this is {backbone.name} ({backbone.identity})"
        if is_local(base["identity"]) == is_local(backbone.identity):
            name, _, commit = base["identity"].rpartition("@")
            remedy = f"model.revision={commit}" if name == backbone.name else "model.path to its base"
            differing = differing_files(base.get("files", {}), backbone.files)
            raise UserError(f"the adapter {folder} was trained on another base: {bases}{differing}; set {remedy}")
        log.warning("a hub id cannot be compared with a folder: the adapter %s was trained on %s", folder, bases)
    if not base and named and Path(named).name != Path(backbone.name).name:
        log.warning("the adapter %s names %s as its base; it is loaded onto %s", folder, named, backbone.name)


def _fitting(saved: Mapping[str, Tensor], wanted: Mapping[str, Tensor], misfit: str) -> dict[str, Tensor]:
    """Return saved weights under the names of the model that they are loaded into.

    Raises:
        UserError: If a weight is missing, left over or of another shape; the message begins with `misfit`.
    """
    names = current_names(saved, wanted)
    if set(names.values()) != set(wanted):
        missing, left = set(wanted) - set(names.values()), set(names.values()) - set(wanted)
        raise UserError(
            f"{misfit}: {len(missing)} weights are missing and {len(left)} are left over, such as {min(missing | left)}"
        )
    for old, new in names.items():
        if saved[old].shape != wanted[new].shape:
            shapes = f"{tuple(saved[old].shape)} there and {tuple(wanted[new].shape)} here"
            raise UserError(f"{misfit}: {new} is {shapes}; set model.path to its base")
    return {names[name]: tensor for name, tensor in saved.items()}


def merge(backbone: Backbone) -> Backbone:
    """Return the backbone with its adapter's weights added to its own: faster, and equal up to rounding."""
    assert isinstance(backbone.full, peft.PeftModel)
    full = backbone.full.merge_and_unload(safe_merge=True)
    return replace(backbone, full=full, adapter=f"{backbone.adapter}, merged")


def describe_targets(backbone: Backbone) -> dict[str, str]:
    """Return, in words and by tower, the modules that an adapter is on: the ends of their names and their number."""
    if not isinstance(backbone.full, peft.PeftModel):
        return {}
    towers: dict[str, list[str]] = {}
    targeted: list[str] = backbone.full.base_model.targeted_module_names  # type: ignore[assignment]
    for name in targeted:
        towers.setdefault("vision" if is_vision(name) else "language", []).append(name.rpartition(".")[2])
    return {tower: f"{', '.join(sorted(set(ends)))}: {len(ends)} modules" for tower, ends in sorted(towers.items())}


VISION = r".*(visual|vision).*"  # names of modules of the vision tower


def is_vision(name: str) -> bool:
    """Return whether a module or a parameter belongs to the vision tower, by its name."""
    return re.fullmatch(VISION, name) is not None
