"""A folder that sentence-transformers loads: a checkpoint, both levels of the prompt, pooling, normalisation."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from transformers import AutoConfig
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.processing_utils import ProcessorMixin
from transformers.utils import is_torchvision_available

from gen2embed.config.presets import PACKAGE
from gen2embed.data.items import Input
from gen2embed.export.kinds import Encode, Merged, Place, refuse_pooling
from gen2embed.export.template import chat_template
from gen2embed.model.card import read_card
from gen2embed.model.embedder import Embedder
from gen2embed.model.processor import LEFT_OUT, load_processor
from gen2embed.model.resolution import Resolution
from gen2embed.outputs.redacted import write_json
from gen2embed.utils.choices import Role
from gen2embed.utils.errors import UserError
from gen2embed.utils.log import log

SHIPPED = PACKAGE / "shipped"
LIBRARY = "sentence_transformers"
REQUIREMENTS = {"sentence-transformers": ">=6.2,<7", "transformers": ">=5.23"}  # what an export was checked with


class SentenceTransformers:
    """A folder for sentence-transformers.

    Level 1 is the library's prompt, a system message. Level 2 is in the chat template, by the library's task.
    """

    merges, library = True, "sentence-transformers"

    def refuse(self, embedder: Embedder) -> None:
        """Raise `UserError` if the library is not installed, for another pooling, or if no template can be written."""
        _library()
        refuse_pooling(embedder, "sentence-transformers")
        chat_template(embedder.build.prompt, embedder.backbone, standalone=False)

    def write(self, embedder: Embedder, base: str, folder: Path) -> None:
        embedder.backbone.processor.tokenizer.model_max_length = embedder.build.max_length
        Merged().write(embedder, base, folder)
        template = chat_template(embedder.build.prompt, embedder.backbone, standalone=False)
        (folder / "chat_template.jinja").write_text(template)
        _write_modules(embedder, folder)
        write_json(folder / "sentence_bert_config.json", _transformer_settings(embedder, template))
        system = embedder.build.prompt.system
        write_json(
            folder / "config_sentence_transformers.json",
            {
                "model_type": "SentenceTransformer",
                "prompts": {"query": system.get("query", ""), "document": system.get("candidate", "")},
                "default_prompt_name": "document",
                "similarity_fn_name": "cosine",
                "requirements": REQUIREMENTS,
            },
        )

    def load(self, folder: Path, place: Place) -> Encode:
        with lent_processor(folder):
            model = _library().SentenceTransformer(
                str(folder),
                device=place.device,
                trust_remote_code=(folder / "transformer.py").is_file(),
                model_kwargs={"dtype": "float32"},
            )

        def encode(inputs: Sequence[Input], role: Role) -> Tensor:
            embed = model.encode_query if role == "query" else model.encode_document
            return torch.as_tensor(embed(list(inputs), show_progress_bar=False)).float()

        return encode


def needs_code(embedder: Embedder) -> bool:
    """Return whether the folder carries a module of its own, which the library loads with trust_remote_code alone."""
    return embedder.build.resolution.policy != "original" or embedder.build.prompt.convention == "reference"


def _write_modules(embedder: Embedder, folder: Path) -> None:
    """Write `modules.json`, the settings of pooling and normalisation, and the code of a module of our own."""
    transformer = f"{LIBRARY}.base.modules.transformer.Transformer"
    if needs_code(embedder):
        transformer = "transformer.PreparedTransformer"
        for name in ("transformer.py", "resizing.py"):
            shutil.copy(SHIPPED / name, folder / name)
    pooling = {"embedding_dimension": embedder.dim, "pooling_mode": "lasttoken", "include_prompt": True}
    modules = {
        "": transformer,
        "1_Pooling": f"{LIBRARY}.sentence_transformer.modules.pooling.Pooling",
        "2_Normalize": f"{LIBRARY}.base.modules.normalize.Normalize",
    }
    entries = enumerate(modules.items())
    write_json(
        folder / "modules.json",
        [{"idx": index, "name": str(index), "path": path, "type": name} for index, (path, name) in entries],
    )
    write_json(folder / "1_Pooling" / "config.json", pooling)
    write_json(folder / "2_Normalize" / "config.json", {})


def _transformer_settings(embedder: Embedder, template: str) -> dict[str, Any]:
    """Return the settings of the first module."""
    build = embedder.build
    rendering = {"add_generation_prompt": True}
    if build.prompt.convention == "native":
        rendering["embed"] = True  # which the template asks for
    rendering["sanitize_control_tokens"] = _guards(embedder.backbone.processor, template, rendering)
    settings = {
        "transformer_task": "feature-extraction",
        "modality_config": {name: _forward(name) for name in ("text", "image", "image+text", "message")},
        "module_output_name": "token_embeddings",
        "processing_kwargs": {"chat_template": rendering},
        # The backend of the image processor; `backend` would be asked of a video processor as well.
        "processor_kwargs": {"use_fast": build.resolution.backend == "torchvision"},
        "unpad_inputs": False,
    }
    if needs_code(embedder):
        settings |= {"policy": build.resolution.policy, "flat_positions": build.prompt.convention == "reference"}
    return settings


def _guards(processor: ProcessorMixin, template: str, rendering: Mapping[str, Any]) -> bool:
    """Return whether transformers can keep the name of a special token in a user's text a text, as ours does."""
    messages = [{"role": "user", "content": [{"type": "text", "text": "a"}]}]
    settings = {**rendering, "tokenize": True, "sanitize_control_tokens": True}
    try:  # the mixin's: SmolVLM's own asks its video processor
        ProcessorMixin.apply_chat_template(processor, messages, template, **settings)
    except NotImplementedError:
        log.warning(
            "sentence-transformers will read the name of a special token in a text as that token, "
            "as the chat template has no special tokens to tell it from"
        )
        return False
    return True


def _forward(name: str) -> dict[str, str]:
    method = {"method": "forward", "method_output_name": "last_hidden_state"}
    return {**method, "format": "structured"} if name == "message" else method


@contextlib.contextmanager
def lent_processor(folder: Path) -> Iterator[None]:
    """Give the library our processor inside of the context, where torchvision is missing.

    Without torchvision the library builds no processor for a model that also takes videos. Ours is the same otherwise.
    """
    config = AutoConfig.from_pretrained(folder)
    if is_torchvision_available() or LEFT_OUT not in PROCESSOR_MAPPING[type(config)].get_attributes():
        yield
        return
    log.warning(
        "torchvision is not installed, without which sentence-transformers does not load a %s; the check uses a "
        "processor without videos",
        config.model_type,
    )
    processor = load_processor(str(folder), config, Resolution(**read_card(folder)["resolution"]), {})
    module: Any = import_module(f"{LIBRARY}.base.modules.transformer")
    with mock.patch.object(module.AutoProcessor, "from_pretrained", return_value=processor):
        yield


def _library() -> Any:
    try:
        return import_module(LIBRARY)
    except ImportError as error:
        raise UserError(
            "sentence-transformers is not installed, and an export is checked by it: pip install 'gen2embed[serve]'"
        ) from error
