"""The kinds of export: the files of a kind, and how its own library embeds with them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import huggingface_hub as hub
import peft
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError
from torch import Tensor

from gen2embed.data.items import Input
from gen2embed.model.adapter import save
from gen2embed.model.card import read_card
from gen2embed.model.embedder import Embedder
from gen2embed.model.pooling import LastToken
from gen2embed.model.pretrained import PretrainedSource
from gen2embed.utils.choices import Role
from gen2embed.utils.errors import UserError

VIDEO = "video_preprocessor_config.json"
Encode = Callable[[Sequence[Input], Role], Tensor]  # float32 unit vectors (n, d), on the CPU


@dataclass(frozen=True)
class Place:
    """How an export is loaded to be compared: the base for an adapter, the device, and the most tokens of an input."""

    base: str
    device: str
    max_length: int

    def load(self, path: str | Path, **settings: Any) -> Embedder:
        """Return a checkpoint in single precision, as the Python API loads it."""
        return Embedder.from_pretrained(
            path, dtype="float32", device=self.device, max_length=self.max_length, **settings
        )


class Kind(Protocol):
    """One kind of export.

    Attributes:
        merges: Whether an adapter's weights are added to the base's.
        library: The hub's name of the library.
    """

    merges: bool
    library: str

    def refuse(self, embedder: Embedder) -> None:
        """Raise `UserError` for a model that this kind cannot express; read no weight."""

    def write(self, embedder: Embedder, base: str, folder: Path) -> None:
        """Write all files but the model card, which names the base model `base`."""

    def load(self, folder: Path, place: Place) -> Encode:
        """Load the folder by the kind's own library, in single precision."""


def refuse_pooling(embedder: Embedder, library: str) -> None:
    """Raise `UserError` for a model of another pooling than the last token's, the only one that a library has."""
    if embedder.pooling != LastToken():
        raise UserError(
            f"{library} pools by the last token, and this model by {embedder.pooling}; export it as merged or adapter, "
            "which gen2embed loads"
        )


class Merged:
    """A whole checkpoint, with the prompt and the resolution beside it."""

    merges, library = True, "transformers"

    def refuse(self, embedder: Embedder) -> None:
        """Refuse nothing: every model can be saved."""

    def write(self, embedder: Embedder, base: str, folder: Path) -> None:
        backbone = embedder.backbone
        save(replace(embedder, backbone=replace(backbone, name=base)), folder)
        # Ours has no processor for videos; where other libraries ask for one, they look into these files.
        backbone.processor.image_processor.save_pretrained(folder)
        if file := _video_settings(backbone.name):
            shutil.copy(file, folder / VIDEO)

    def load(self, folder: Path, place: Place) -> Encode:
        return place.load(folder).encode


class Alone:
    """The adapter alone, as `peft` saves and loads it."""

    merges, library = False, "peft"

    def refuse(self, embedder: Embedder) -> None:
        """Refuse nothing: every adapter can be saved."""

    def write(self, embedder: Embedder, base: str, folder: Path) -> None:
        backbone = embedder.backbone
        assert isinstance(backbone.full, peft.PeftModel)
        for config in backbone.full.peft_config.values():
            config.base_model_name_or_path = base
        save(replace(embedder, backbone=replace(backbone, name=base)), folder)

    def load(self, folder: Path, place: Place) -> Encode:
        plain = place.load(place.base, **PretrainedSource(folder, None, read_card(folder)).choose()._asdict())
        peft.PeftModel.from_pretrained(plain.backbone.full, folder)  # which puts its layers into the model
        return plain.encode


def _video_settings(path: str) -> Path | None:
    """Return the file of a model's video settings, by its folder or hub id; None if it has none."""
    if Path(path).is_dir():
        file = Path(path) / VIDEO
        return file if file.is_file() else None
    try:
        return Path(hub.hf_hub_download(path, VIDEO))
    except (OSError, HfHubHTTPError, EntryNotFoundError):
        return None
