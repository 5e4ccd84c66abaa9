"""Load a multimodal LLM as a backbone: the base model without its language-model head, tokenizer, and processor.

Everything is loaded by Hugging Face's own classes, from a hub id or a local folder; torchvision is never needed.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer, PreTrainedModel
from transformers.image_processing_backends import PilBackend
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.processing_utils import ProcessorMixin

from gen2embed.files import digest_files
from gen2embed.images import Resolution
from gen2embed.types import UserError

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
WEIGHTS = ("*.safetensors", "pytorch_model*.bin")


@dataclass(frozen=True)
class Backbone:
    """A base model in evaluation mode, what prepares its inputs, and what identifies it.

    full: the whole model, or the adapted one; its parameters are trained and saved.
    model: the base model inside of it, without the head, which is what runs: its forward returns the final-norm hidden
        state as `last_hidden_state`.
    adapter: a digest of the weights that were trained on top; None for none.
    name: the path or hub id that it was loaded from.
    identity: hub id and revision, or a digest of the local weights.
    """

    name: str
    full: PreTrainedModel
    model: nn.Module
    processor: ProcessorMixin
    model_type: str
    identity: str
    adapter: str | None = None

    @property
    def tokenizer(self) -> Any:
        return self.processor.tokenizer

    @property
    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.model.parameters()).dtype


def load_backbone(
    path: str | Path,
    resolution: Resolution,
    dtype: Dtype = "auto",
    device: str = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> Backbone:
    """Load the model at `path`, a local folder or a hub id.

    Raises `UserError` for a folder that is missing, is not a checkpoint or lacks weights, for a model that is not a
    multimodal LLM, and for weights that do not fill the model.
    """
    path = check_path(path)
    source = {"revision": revision, "trust_remote_code": trust_remote_code}
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if dtype == "auto":
        dtype = "bfloat16" if torch.device(device).type == "cuda" else "float32"
    try:
        config = AutoConfig.from_pretrained(path, **source)
        processor = _load_processor(path, config, resolution, source)
        model, loading = AutoModelForImageTextToText.from_pretrained(
            path, dtype=getattr(torch, dtype), output_loading_info=True, **source
        )
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(f"the model {path} could not be loaded: {first}") from error
    if missing := sorted(loading["missing_keys"]) + sorted(loading["mismatched_keys"]):
        raise UserError(f"the checkpoint {path} does not fill the model: {len(missing)} weights, such as {missing[0]}")
    model = model.requires_grad_(False).eval().to(device)
    return Backbone(path, model, model.base_model, processor, config.model_type, _identity(path, config))


def check_path(path: str | Path) -> str:
    """Return `path` if it is a checkpoint folder or can be a hub id; raise `UserError` otherwise. Loads nothing."""
    folder = Path(path).expanduser()
    if not folder.exists():
        if is_hub_id(path):
            return str(path)
        raise UserError(
            f"the model folder {path} does not exist (and it is not a hub id such as Qwen/Qwen2-VL-2B-Instruct)"
        )
    if not (folder / "config.json").is_file():
        raise UserError(f"the folder {path} is not a Hugging Face checkpoint: it has no config.json")
    if not any(_weights(folder)):
        raise UserError(f"the checkpoint {path} has no weights: no file matches {' or '.join(WEIGHTS)}")
    return str(folder)


def is_hub_id(path: str | Path) -> bool:
    """Whether `path` can be a repository on the hub."""
    return isinstance(path, str) and re.fullmatch(r"\w[\w.-]*/[\w.-]+", path) is not None


def _load_processor(path: str, config: Any, resolution: Resolution, source: dict[str, Any]) -> ProcessorMixin:
    """The family's own processor over tokenizer and image processor; a video processor would need torchvision."""
    if type(config) not in PROCESSOR_MAPPING:
        raise UserError(
            f"{path} is a model of type {config.model_type!r}, which has no processor for pictures and texts"
        )
    base: type[ProcessorMixin] = PROCESSOR_MAPPING[type(config)]

    class PictureProcessor(base):
        @classmethod
        def get_attributes(cls) -> list[str]:
            return [name for name in super().get_attributes() if name != "video_processor"]

    tokenizer = AutoTokenizer.from_pretrained(path, **source)
    tokenizer.padding_side = "right"
    image_processor = AutoImageProcessor.from_pretrained(path, backend=resolution.backend, **source)
    if isinstance(image_processor, PilBackend) != (resolution.backend == "pil"):  # transformers falls back by itself
        raise UserError(
            f"resolution.backend={resolution.backend} cannot be had here: {path} gave a "
            f"{type(image_processor).__name__}; install torchvision, or choose the other backend"
        )
    for bound, key in (("min_pixels", "shortest_edge"), ("max_pixels", "longest_edge")):
        if (pixels := getattr(resolution, bound)) is not None:
            if not getattr(image_processor.size, "longest_edge", None):
                raise UserError(f"resolution.{bound} means nothing to {type(image_processor).__name__}; leave it null")
            image_processor.size = type(image_processor.size)(**{**dict(image_processor.size), key: pixels})
    settings, _ = base.get_processor_dict(path, **source)
    own = set(inspect.signature(base.__init__).parameters) - set(base.get_attributes())
    options = {"chat_template": tokenizer.chat_template, **{key: settings[key] for key in own & set(settings)}}
    return PictureProcessor(image_processor, tokenizer, **options)


def _weights(folder: Path) -> Iterator[Path]:
    return (file for pattern in WEIGHTS for file in folder.glob(pattern))


def _identity(path: str, config: Any) -> str:
    """The hub id at its commit, or a digest of the local weights and config."""
    if not Path(path).is_dir():
        return f"{path}@{config._commit_hash}"
    return f"weights:{digest_files([*_weights(Path(path)), Path(path) / 'config.json'])}"
