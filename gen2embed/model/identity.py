"""Identify a model by the files that decide its embeddings; the settings that decide them are in `fingerprint.py`.

Loading reads `DECIDING` and the weights (`weight_files`), which can change a vector, and `INERT`, which cannot.
`tests/model/test_identity.py` fails if loading opens another file. A model of the hub is identified by its commit,
which covers every file.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from gen2embed.utils.errors import UserError, first_few
from gen2embed.utils.facts import digest_of, keep_facts
from gen2embed.utils.files import digest_files

LOCAL = "files:"  # begins the identity of a local model
EARLIER = "weights:"  # began it in versions in which it covered the weights and config.json alone

DECIDING = {  # files of a checkpoint folder, and what they decide
    "config.json": "the layers, positions and quantisation of the model",
    "tokenizer.json": "the token ids of a text",
    "tokenizer_config.json": "special tokens, the tokenizer's class and its chat template",
    "special_tokens_map.json": "special tokens, in older checkpoints",
    "added_tokens.json": "added tokens, in older checkpoints",
    "vocab.json": "a tokenizer without tokenizer.json",
    "vocab.txt": "a tokenizer without tokenizer.json",
    "merges.txt": "a tokenizer without tokenizer.json",
    "*.model": "a sentencepiece or tiktoken vocabulary",
    "*.tiktoken": "a tiktoken vocabulary",
    "tekken.json": "Mistral's vocabulary",
    "chat_template.jinja": "the chat template",
    "chat_template.json": "the chat template, in older checkpoints",
    "additional_chat_templates/*.jinja": "further chat templates, of which `default` is used",
    "processor_config.json": "what stands in an image slot, and an image processor's settings",
    "preprocessor_config.json": "the image processor's settings",
    "adapter_config.json": "an adapter that transformers loads with the base",
    "adapter_model.safetensors": "its weights",
    "adapter_model.bin": "its weights",
}
DYNAMIC = "transformers_modules."  # where transformers imports remote code
CODE = "*.py"  # in the folder and below it, where trust_remote_code is set
INERT = {  # files that loading reads and that change no vector
    "generation_config.json": "only generation of text reads it",
    "video_preprocessor_config.json": "no video processor is loaded",
    "audio_tokenizer_config.json": "no audio is embedded",
    "gen2embed.json": "its prompt and resolution are settings of the fingerprint",
}
WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")  # peft loads the first that is there
ADAPTER_INERT = {  # keys of adapter_config.json: names, and what training alone uses
    "base_model_name_or_path", "revision", "inference_mode", "auto_mapping", "parent_library", "peft_version",
    "task_type", "lora_dropout", "init_lora_weights",
}  # fmt: skip


def is_local(identity: str) -> bool:
    """Return whether an identity, of this or an earlier version, is a local model's."""
    return identity.startswith((LOCAL, EARLIER))


def weight_files(folder: Path) -> list[Path]:
    """Return the files of weights that transformers opens in a checkpoint folder; empty if there are none.

    It takes one file before shards, and safetensors before pickles; others that lie beside them are not read. A file
    that config.json names as `transformers_weights` comes before all.
    """
    explicit = _read_json(folder / "config.json").get("transformers_weights")
    names = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
    for name in [explicit] if explicit else names:
        path = folder / name
        if path.is_file():
            shards = set(_read_json(path).get("weight_map", {}).values()) if name.endswith(".index.json") else ()
            return [path, *(folder / shard for shard in sorted(shards))]
    return []


def deciding_files(folder: Path, remote_code: bool = False) -> dict[str, Path]:
    """Return the files of a checkpoint folder that decide an embedding, by their names in it, sorted.

    Args:
        folder: A checkpoint in Hugging Face format.
        remote_code: Whether code that lies beside the weights may run.
    """
    paths = {path for pattern in DECIDING for path in folder.glob(pattern)} | set(weight_files(folder))
    paths |= {folder / name for name in _versioned(folder)}
    if remote_code:
        paths |= set(folder.rglob(CODE))
    named = {path.relative_to(folder).as_posix(): path for path in paths if path.is_file()}
    return {name: named[name] for name in sorted(named) if not any(part[0] == "." for part in name.split("/"))}


def file_digests(folder: Path, remote_code: bool = False) -> dict[str, str]:
    """Return a digest of each of `deciding_files`, by name."""
    files = deciding_files(folder, remote_code)
    with ThreadPoolExecutor() as pool:  # hashing releases the interpreter's lock
        digested = pool.map(digest_of, files.values())
        digests = {name: digest[:32] for name, digest in zip(files, digested, strict=True)}
    keep_facts()
    return digests


def identity_of(files: Mapping[str, str]) -> str:
    """Return the identity of a local model from the digests of its files."""
    return LOCAL + digest_value(files)


def earlier_identity(folder: Path) -> str:
    """Return the identity that versions before `files:` gave a folder, which saved adapters and clusters may hold."""
    weights = (path for pattern in WEIGHTS for path in folder.glob(pattern))
    return EARLIER + digest_files((*weights, folder / "config.json"))


def adapter_identity(folder: Path) -> str:
    """Return the identity of a saved adapter: its weights, and the part of its configuration that changes a vector."""
    config = _read_json(folder / "adapter_config.json")
    deciding: dict[str, Any] = {name: value for name, value in config.items() if name not in ADAPTER_INERT}
    weights = next((folder / name for name in ADAPTER_WEIGHTS if (folder / name).is_file()), None)
    if weights is None:
        raise UserError(f"the adapter {folder} has no weights: none of {' and '.join(ADAPTER_WEIGHTS)} is there")
    return LOCAL + digest_value({"config": deciding, "weights": digest_of(weights)[:32]})


def earlier_adapter_identity(folder: Path) -> str:
    """Return the identity that versions before `files:` gave an adapter: a digest of its weights alone."""
    return digest_files(folder.glob("adapter_model.*"))


def differing_files(recorded: Mapping[str, str], current: Mapping[str, str]) -> str:
    """Return `; ... differ` for an error, with the first files whose digests differ; empty where none are known."""
    names: list[str] = []
    if recorded and current:
        names = sorted(name for name in {*recorded, *current} if recorded.get(name) != current.get(name))
    return f"; {first_few(names)} differ" if names else ""


def remote_code_digest(*objects: Any) -> str | None:
    """Return a digest of the remote code that some loaded objects run; None if transformers' own classes do.

    It covers code of another repository, which a checkpoint may name in `auto_map` without a commit.
    """
    names = {cls.__module__ for each in objects for cls in type(each).__mro__}
    sources = {getattr(sys.modules[name], "__file__", None) for name in names if name.startswith(DYNAMIC)}
    code = {path for source in sources if source for path in Path(source).parent.glob(CODE)}
    return digest_value(sorted({digest_of(path)[:32] for path in code})) if code else None


def _versioned(folder: Path) -> Iterator[str]:
    """Yield the names of files that a checkpoint lists for a newer or older transformers."""
    yield from _strings(_read_json(folder / "config.json").get("configuration_files"))
    yield from _strings(_read_json(folder / "tokenizer_config.json").get("fast_tokenizer_files"))


def _strings(value: object) -> Iterable[str]:
    return [name for name in value if isinstance(name, str)] if isinstance(value, list) else []


def _read_json(path: Path) -> dict[str, Any]:
    """Return the object in a file; empty if there is none, which whoever loads the file reports."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def digest_value(value: object) -> str:
    """Return a digest of a plain value."""
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=16).hexdigest()
