"""Load a multimodal LLM by Hugging Face's own classes: the base model without its head, and its processor."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import huggingface_hub as hub
import torch
from huggingface_hub.errors import RevisionResolutionError
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedConfig, PreTrainedModel
from transformers.processing_utils import ProcessorMixin
from transformers.utils import is_flash_attn_2_available

from gen2embed.model.identity import (
    EARLIER,
    WEIGHTS,
    earlier_identity,
    file_digests,
    identity_of,
    is_local,
    remote_code_digest,
)
from gen2embed.model.processor import load_processor
from gen2embed.model.resolution import Resolution
from gen2embed.model.run_models import advice
from gen2embed.utils.choices import Attention, Dtype
from gen2embed.utils.errors import UserError, first_line
from gen2embed.utils.files import is_hub_id
from gen2embed.utils.log import log

REMOVED = ("phi3_v",)  # microsoft/Phi-3.5-vision-instruct: its remote code needs transformers 4
VISION_PATH = re.compile(r"visual|vision|projector|connector")  # names of modules before the text layers
CAUSAL = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "llava_next", "smolvlm")  # model types that never look ahead


@dataclass(frozen=True)
class Backbone:
    """A base model, its processor, and its identity.

    Args:
        name: The path or hub id that it was loaded from.
        full: The model with its head, or the adapted one; its parameters are trained and saved.
        model: The base model in it, whose `last_hidden_state` is that after the final norm.
        model_type: The family, as config.json names it.
        identity: The hub id and commit, or a digest of the local files that decide an embedding (`identity.py`).
        adapter: The identity of the weights that were trained on top; None if there are none.
        remote_code: Whether code that lies beside the weights may run; `code` is a digest of it, if any runs.
        files: The digests of those local files, by name.
        adapter_folder: Where the adapter was loaded from; None for a new one.
    """

    name: str
    full: PreTrainedModel
    model: nn.Module
    processor: ProcessorMixin
    model_type: str
    identity: str
    adapter: str | None = None
    remote_code: bool = False
    files: Mapping[str, str] = field(default_factory=dict)
    code: str | None = None
    adapter_folder: Path | None = None

    @property
    def tokenizer(self) -> Any:
        return self.processor.tokenizer

    @property
    def commit(self) -> str | None:
        """The commit of the hub's repository; None for local weights."""
        return None if is_local(self.identity) else self.identity.rpartition("@")[2]

    def is_identified_by(self, recorded: str) -> bool:
        """Return whether an identity that a file holds is this model's, in this or an earlier version."""
        if recorded.startswith(EARLIER) and is_local(self.identity):
            return recorded == earlier_identity(Path(self.name))
        return recorded == self.identity

    @property
    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.model.parameters()).dtype

    @property
    def budget(self) -> int:
        """How many tokens the device runs well in one pass."""
        return 4096 if self.device.type == "cuda" else 512

    @property
    def frozen_vision(self) -> bool:
        """Whether a picture has the same features in every pass."""
        return not self._vision_dropout and not any(parameter.requires_grad for parameter in self._vision_parameters)

    @cached_property
    def _vision_parameters(self) -> list[nn.Parameter]:
        return [parameter for name, parameter in self.model.named_parameters() if VISION_PATH.search(name)]

    @cached_property
    def _vision_dropout(self) -> bool:
        modules = (module for name, module in self.model.named_modules() if VISION_PATH.search(name))
        return has_dropout(modules, self.full.config.vision_config)

    def why_padded(self, longest: int) -> str | None:
        """Return, in words, why samples of at most `longest` tokens cannot be packed into one row; None if they can."""
        # in a packed row, a token attends to all tokens before it in its sample, and to no other
        window = getattr(self.full.config.get_text_config(), "sliding_window", None)
        if self.model_type not in CAUSAL:
            return f"a model of type {self.model_type} is not known to be causal"
        if window is not None and window < longest:
            return f"its tokens attend to the last {window} only, and model.max_length is {longest}"
        return None

    @property
    def takes_mask(self) -> bool:
        """Whether its attention takes any mask; FlashAttention only keeps the samples of a row apart."""
        return self.attention != "flash_attention_2"

    @property
    def attention(self) -> str:
        """The attention implementation that runs."""
        return self.full.config._attn_implementation


def has_dropout(modules: Iterable[nn.Module], *configs: PreTrainedConfig) -> bool:
    """Return whether training drops anything in modules, or in the attention that configurations describe."""
    layers = any(isinstance(module, nn.Dropout) and module.p > 0 for module in modules)
    return layers or any(getattr(config, "attention_dropout", None) for config in configs)


def load_backbone(
    path: str | Path,
    resolution: Resolution,
    dtype: Dtype = "auto",
    device: str = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
    attn_implementation: Attention = "sdpa",
    compiled: bool = False,
) -> Backbone:
    """Return the model at a path, in evaluation mode and without gradients.

    The arguments are those of `Embedder.from_pretrained`.

    Raises:
        UserError: For a path without a checkpoint, for a model that is no multimodal LLM or no longer runs, and for
            weights that are missing.
    """
    path = check_path(path)
    if trust_remote_code:
        log.warning("model.trust_remote_code=true: code that lies beside the weights of %s may run, unchecked", path)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if dtype == "auto":
        dtype = "bfloat16" if torch.device(device).type == "cuda" else "float32"
    attention = _attention(attn_implementation, device, dtype)
    try:
        commit = None if Path(path).is_dir() else hub.HfApi().resolve_revision(path, revision=revision).resolved
        source = {"revision": commit, "trust_remote_code": trust_remote_code}
        config, processor, model = _load(path, resolution, getattr(torch, dtype), attention, source)
    except (OSError, ValueError, ImportError, SafetensorError, RevisionResolutionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"the model {path} could not be loaded: {first_line(error)}") from error
    model = model.requires_grad_(False).eval().to(device)
    if compiled:
        for layer in model.get_decoder().layers:
            layer.compile(dynamic=True)  # at its first pass, once for rows of all lengths
    files = {} if commit else file_digests(Path(path), trust_remote_code)
    parts = (model, model.config, processor.tokenizer, processor.image_processor, processor)
    return Backbone(
        path,
        model,
        model.base_model,
        processor,
        config.model_type,
        f"{path}@{commit}" if commit else identity_of(files),
        remote_code=trust_remote_code,
        files=files,
        code=remote_code_digest(*parts) if trust_remote_code else None,
    )


def _load(
    path: str, resolution: Resolution, dtype: torch.dtype, attention: Attention, source: dict[str, Any]
) -> tuple[PreTrainedConfig, ProcessorMixin, PreTrainedModel]:
    """Return the configuration, the processor and the model; raise `UserError` for weights that are missing."""
    _check_supported(path, source)
    config = AutoConfig.from_pretrained(path, **source)
    processor = load_processor(path, config, resolution, source)
    model, loading = AutoModelForImageTextToText.from_pretrained(
        path, dtype=dtype, attn_implementation=attention, output_loading_info=True, **source
    )
    if missing := sorted(loading["missing_keys"]) + sorted(loading["mismatched_keys"]):
        raise UserError(f"the checkpoint {path} does not fill the model: {len(missing)} weights, such as {missing[0]}")
    return config, processor, model


def check_path(path: str | Path) -> str:
    """Return `path` if it is a checkpoint folder or can be a hub id; raise `UserError` otherwise. Loads nothing."""
    if not (folder := Path(path).expanduser()).exists():
        if is_hub_id(path):
            return str(path)
        raise UserError(
            f"the model folder {path} does not exist (and it is not a hub id such as Qwen/Qwen2-VL-2B-Instruct)"
            + advice(path)
        )
    if not (folder / "config.json").is_file():
        raise UserError(f"the folder {path} is not a Hugging Face checkpoint: it has no config.json{advice(path)}")
    if not any(file for pattern in WEIGHTS for file in folder.glob(pattern)):
        raise UserError(f"the checkpoint {path} has no weights: no file matches {' or '.join(WEIGHTS)}")
    return str(folder)


def _check_supported(path: str, source: dict[str, Any]) -> None:
    """Raise `UserError` for a model that only remote code of transformers 4 could run. Reads the config alone."""
    config, _ = PreTrainedConfig.get_config_dict(path, revision=source["revision"])
    if config.get("model_type") in REMOVED:
        unsupported = f"{path} is a model of type {config['model_type']!r}, which transformers 5 no longer runs"
        raise UserError(f"{unsupported}; choose another, such as model=qwen2_vl_2b, qwen2_vl_7b or llava_next_7b")


def _attention(wanted: Attention, device: str, dtype: str) -> Attention:
    """Return the attention that can run: FlashAttention needs a GPU, half precision and its package."""
    if wanted != "flash_attention_2":
        return wanted
    if torch.device(device).type == "cpu":
        reason = "the device is the CPU"
    elif dtype == "float32":
        reason = "it does not compute in float32; set model.dtype=bfloat16"
    elif not is_flash_attn_2_available():
        reason = "the package flash-attn is not installed"
    else:
        return wanted
    log.warning("model.attn_implementation=flash_attention_2 falls back to sdpa: %s", reason)
    return "sdpa"
