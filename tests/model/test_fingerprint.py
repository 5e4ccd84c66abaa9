"""What decides an embedding is in the fingerprint, and what does not is not: one change at a time.

Each row is a change and whether the fingerprint changes. Where it says that vectors move, they are compared, too: a
row without them is of a file or setting that can decide in other checkpoints than the small ones here.
"""

import ctypes
import importlib.metadata
import json
import os
import shutil
import struct
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import peft
import pytest
import safetensors.torch
import torch
import transformers
from checkpoints import FAMILIES, make_checkpoint
from conftest import GOLDEN, REPOSITORY, TINY, noise

from gen2embed import Embedder
from gen2embed.model import fingerprint as fingerprints
from gen2embed.model.adapter import Lora, merge, save
from gen2embed.model.card import CARD
from gen2embed.model.identity import DECIDING, INERT, deciding_files, file_digests, identity_of
from gen2embed.model.prompts import Prompt

SETTINGS = {"resolution": "original", "device": "cpu"}
INPUTS = ["a large red circle", "42 blue squares " * 40, {"image": noise(1), "text": "what colour is it?"}]
MOVED, SAME = 1e-4, 2e-6  # of an element of a vector


def load(path: Path, **settings) -> Embedder:
    return Embedder.from_pretrained(path, **{**SETTINGS, **settings})


def vectors(model: Embedder) -> torch.Tensor:
    return torch.cat([model.encode(INPUTS, role) for role in ("query", "candidate")])


@pytest.fixture(scope="module")
def plain(tiny) -> tuple[dict, torch.Tensor]:
    return tiny.fingerprint, vectors(tiny)


# --- files ----------------------------------------------------------------------------------------------------------


def rewritten(name: str, change: Callable[[dict], object]) -> Callable[[Path], object]:
    """A change of the object in a JSON file."""

    def write(folder: Path) -> None:
        value = json.loads((folder / name).read_text())
        change(value)
        (folder / name).write_text(json.dumps(value))

    return write


def extended(name: str, **values) -> Callable[[Path], object]:
    return rewritten(name, lambda value: value.update(values))


def written(name: str, content: str | dict) -> Callable[[Path], object]:
    def write(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))

    return write


def scaled(folder: Path) -> None:
    """Other weights, in whichever file has the last norm."""
    for file in sorted(folder.glob("*.safetensors")):
        tensors = safetensors.torch.load_file(file)
        if norms := [name for name in tensors if name.endswith("model.norm.weight")]:
            tensors[norms[0]] *= torch.linspace(0.5, 2, 128).to(tensors[norms[0]].dtype)
            safetensors.torch.save_file(tensors, file, {"format": "pt"})
            return
    raise AssertionError("no file has a norm")


def pickled(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"other weights")


TEMPLATE = (TINY / "chat_template.jinja").read_text()
OTHER_TEMPLATE = TEMPLATE.replace("assistant", "narrator")
IMAGES = {**json.loads((TINY / "preprocessor_config.json").read_text()), "image_mean": [0, 0, 0]}


LISTED = {  # files of which a checkpoint may have others for other versions of transformers, and where it lists them
    "config.json": ("config.json", "configuration_files"),
    "tokenizer.json": ("tokenizer_config.json", "fast_tokenizer_files"),
}


def versioned(name: str, change: Callable[[dict], object]) -> Callable[[Path], object]:
    """A file for this version of transformers in place of the usual one."""
    versioned, (listing, key) = name.replace(".json", ".4.0.0.json"), LISTED[name]

    def write(folder: Path) -> None:
        value = json.loads((folder / name).read_text())
        extended(listing, **{key: [versioned]})(folder)
        change(value)
        (folder / versioned).write_text(json.dumps(value))

    return write


def half(tokenizer: dict) -> None:
    tokenizer["model"]["merges"] = tokenizer["model"]["merges"][:50]


def flat_norm(config: dict) -> None:
    config["text_config"]["rms_norm_eps"] = 1e-2


class Row(NamedTuple):
    """A change of a folder; whether the fingerprint changes; whether the small checkpoint's vectors move."""

    name: str
    change: Callable[[Path], object]
    counts: bool
    moves: bool | None = None  # None: not compared


FILES = [
    Row("config.json", rewritten("config.json", flat_norm), True, True),
    Row("config.4.0.0.json", versioned("config.json", flat_norm), True, True),
    Row("model.safetensors", scaled, True, True),
    Row("tokenizer.json", rewritten("tokenizer.json", half), True, True),
    Row("tokenizer.4.0.0.json", versioned("tokenizer.json", half), True, True),
    Row("tokenizer_config.json", extended("tokenizer_config.json", model_max_length=99), True),
    Row("special_tokens_map.json", written("special_tokens_map.json", {"pad_token": "<|im_end|>"}), True),
    Row("added_tokens.json", written("added_tokens.json", {"large": 650}), True),
    Row("vocab.json", written("vocab.json", {"a": 1}), True),
    Row("vocab.txt", written("vocab.txt", "a"), True),
    Row("merges.txt", written("merges.txt", "a b"), True),
    Row("tokenizer.model", written("tokenizer.model", "pieces"), True),
    Row("chat_template.jinja", written("chat_template.jinja", OTHER_TEMPLATE), True, True),
    Row("chat_template.json", written("chat_template.json", {"chat_template": OTHER_TEMPLATE}), True, True),
    Row("additional_chat_templates", written("additional_chat_templates/default.jinja", OTHER_TEMPLATE), True),
    Row("processor_config.json", written("processor_config.json", {"image_processor": IMAGES}), True, True),
    Row("preprocessor_config.json", written("preprocessor_config.json", IMAGES), True, True),
    Row("generation_config.json", extended("generation_config.json", temperature=0.1), False, False),
    Row("video_preprocessor_config.json", written("video_preprocessor_config.json", {"size": {}}), False, False),
    Row("README.md", written("README.md", "# A model"), False, False),
    Row("LICENSE", written("LICENSE", "all rights reserved"), False),
    Row(".gitattributes", written(".gitattributes", "*.safetensors filter=lfs"), False),
    Row(".git/config", written(".git/config", "[core]"), False),
    Row("._tokenizer.json", written("._tokenizer.json", "of a Mac"), False),
    Row("tokenizer.json.bak", written("tokenizer.json.bak", "{}"), False),
    Row("pytorch_model.bin beside safetensors", pickled, False, False),
    Row("model.fp16.safetensors", written("model.fp16.safetensors", "another variant"), False, False),
    Row("consolidated.safetensors", written("consolidated.safetensors", "the same weights, of another library"), False),
    Row("onnx/model.onnx", written("onnx/model.onnx", "exported"), False),
    Row("training_args.bin", written("training_args.bin", "of the trainer"), False),
    Row("optimizer.pt", written("optimizer.pt", "of the trainer"), False),
    Row("modeling.py without trust", written("modeling.py", "raise SystemExit"), False, False),
]  # fmt: skip


@pytest.mark.parametrize("row", FILES, ids=lambda row: row.name)
def test_a_file_of_a_checkpoint(row, plain, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(TINY, folder)
    row.change(folder)
    if row.moves is None:
        changed = identity_of(file_digests(folder)) != plain[0]["model"]
    else:
        model = load(folder)
        changed = model.fingerprint != plain[0]
        assert (model.backbone.identity != plain[0]["model"]) == changed
        distance = (vectors(model) - plain[1]).abs().max()
        assert distance > MOVED if row.moves else distance < SAME
    assert changed == row.counts


@pytest.fixture(scope="module")
def sharded(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sharded")
    transformers.AutoModelForImageTextToText.from_pretrained(TINY).save_pretrained(folder, max_shard_size="500KB")
    for file in TINY.iterdir():
        if file.suffix != ".safetensors":
            shutil.copy(file, folder)
    return folder


SHARDS = [
    Row("a shard", scaled, True, True),
    Row("the index", extended("model.safetensors.index.json", note=1), True, False),
    Row("a shard that the index lacks", written("model-00009-of-00009.safetensors", "of before"), False, False),
    Row("pickled shards beside it", written("pytorch_model-00001-of-00002.bin", "of before"), False, False),
    Row("README.md", written("README.md", "# A model"), False, False),
]  # fmt: skip


@pytest.mark.parametrize("row", SHARDS, ids=lambda row: row.name)
def test_a_file_of_a_sharded_checkpoint(row, sharded, plain, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(sharded, folder)
    before = identity_of(file_digests(folder))
    row.change(folder)
    model = load(folder)
    assert (model.backbone.identity != before) == row.counts
    distance = (vectors(model) - plain[1]).abs().max()
    assert distance > MOVED if row.moves else distance < SAME


def test_pickled_weights_count_where_they_are_read(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(TINY, folder)
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    before = load(folder).backbone.identity
    tensors["model.norm.weight"] *= torch.linspace(0.5, 2, 128).to(torch.bfloat16)
    torch.save(tensors, folder / "pytorch_model.bin")
    assert load(folder).backbone.identity != before


OWN = """from tokenizers import normalizers
from transformers import Qwen2Tokenizer
from .own_words import REPLACED


class Own(Qwen2Tokenizer):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.backend_tokenizer.normalizer = normalizers.Replace(REPLACED, "small")
"""


def remote_modules() -> list[str]:
    return [name for name in sys.modules if name.partition(".")[0] == "transformers_modules"]


@pytest.fixture
def trusted(tmp_path, monkeypatch) -> Iterator[Path]:
    """A checkpoint whose tokenizer is its own code, in two files."""
    modules = tmp_path / "modules"
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(modules))
    monkeypatch.setattr(sys, "path", [path for path in sys.path if not Path(path, "transformers_modules").is_dir()])
    for name in remote_modules():
        monkeypatch.delitem(sys.modules, name)  # of another cache, which other tests have used
    folder = tmp_path / "own"
    shutil.copytree(TINY, folder)
    extended("tokenizer_config.json", auto_map={"AutoTokenizer": [None, "own.Own"]})(folder)
    written("own.py", OWN)(folder)
    written("own_words.py", 'REPLACED = "nothing at all"\n')(folder)
    yield folder
    for name in remote_modules():
        del sys.modules[name]  # of this cache, in which later tests find nothing


def test_code_counts_where_it_is_trusted(trusted):
    first = load(trusted, trust_remote_code=True)
    assert type(first.backbone.tokenizer).__name__ == "Own"
    written("own_words.py", 'REPLACED = "large"\n')(trusted)
    second = load(trusted, trust_remote_code=True)
    assert (vectors(second) - vectors(first)).abs().max() > MOVED
    assert second.backbone.identity != first.backbone.identity
    assert second.fingerprint["code"] != first.fingerprint["code"]
    identity = load(trusted).backbone.identity
    written("own_words.py", 'REPLACED = "red"\n')(trusted)
    assert load(trusted).backbone.identity == identity  # it does not run


def test_an_unused_trust_is_no_change(tiny):
    assert load(TINY, trust_remote_code=True).fingerprint == tiny.fingerprint


# --- an adapter -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def adapter(tmp_path_factory) -> Path:
    model, folder = load(TINY), tmp_path_factory.mktemp("adapter") / "adapter"
    backbone = Lora(["q_proj"], r=4, alpha=8).attach(model.backbone)
    for name, parameter in backbone.full.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.05, generator=torch.Generator().manual_seed(len(name)))
    save(replace(model, backbone=backbone), folder)
    return folder


def unsigned(folder: Path) -> None:
    rewritten(CARD, lambda card: card.pop("sha256"))(folder)


def other_lora(folder: Path) -> None:
    tensors = safetensors.torch.load_file(folder / "adapter_model.safetensors")
    safetensors.torch.save_file(
        {name: 2 * tensor for name, tensor in tensors.items()}, folder / "adapter_model.safetensors"
    )
    unsigned(folder)


def configured(**values) -> Callable[[Path], object]:
    return extended("adapter_config.json", **values)


ADAPTER = [
    Row("adapter_model.safetensors", other_lora, True, True),
    Row("alpha", configured(lora_alpha=16), True, True),
    Row("rank's pattern of alpha", configured(alpha_pattern={"q_proj": 99}), True, True),
    Row("rsLoRA", configured(use_rslora=True), True, True),
    Row("the base's path", configured(base_model_name_or_path=f"{TINY}/"), False, False),
    Row("dropout", configured(lora_dropout=0.9), False, False),
    Row("README.md", written("README.md", "# An adapter"), False, False),
    Row("adapter_model.bin beside safetensors", written("adapter_model.bin", "of before"), False, False),
]


@pytest.mark.parametrize("row", ADAPTER, ids=lambda row: row.name)
def test_a_file_of_an_adapter(row, adapter, tmp_path):
    folder, before = tmp_path / "adapter", load(adapter)
    shutil.copytree(adapter, folder)
    row.change(folder)
    model = load(folder)
    assert (model.fingerprint != before.fingerprint) == row.counts
    assert (model.fingerprint["adapter"] != before.fingerprint["adapter"]) == row.counts
    distance = (vectors(model) - vectors(before)).abs().max()
    assert distance > MOVED if row.moves else distance < SAME


def test_an_adapter_and_its_merge_count(adapter, tiny):
    model = load(adapter)
    merged = replace(model, backbone=merge(load(adapter).backbone))
    digests = {json.dumps(each.fingerprint) for each in (tiny, model, merged)}
    assert len(digests) == 3


# --- settings -------------------------------------------------------------------------------------------------------


def prompted(model: Embedder, **values) -> Embedder:
    return replace(model, build=replace(model.build, prompt=replace(model.build.prompt, **values)))


def resolved(model: Embedder, **values) -> Embedder:
    return replace(model, build=replace(model.build, resolution=replace(model.build.resolution, **values)))


def bounded(model: Embedder, **pixels) -> Embedder:
    return load(TINY, resolution=replace(model.build.resolution, **pixels))


def suffixed(model: Embedder, role: str, modality: str) -> Embedder:
    suffix = {key: dict(texts) for key, texts in model.build.prompt.suffix.items()}
    suffix.setdefault(role, {})[modality] = "\nin other words"
    return prompted(model, suffix=suffix)


def without_template(model: Embedder) -> Embedder:
    model = load(TINY)
    model.backbone.processor.chat_template = OTHER_TEMPLATE
    return model


CHANGED = {  # a setting -> (another model, the key of the fingerprint)
    "system of queries": (lambda model: prompted(model, system={"query": "Look!"}), "prompt"),
    "system of candidates": (lambda model: prompted(model, system={"candidate": "Look!"}), "prompt"),
    "suffix of texts": (lambda model: suffixed(model, "query", "text"), "prompt"),
    "suffix of pictures": (lambda model: suffixed(model, "query", "image"), "prompt"),
    "suffix of candidates": (lambda model: suffixed(model, "candidate", "text"), "prompt"),
    "convention": (lambda model: prompted(model, convention="reference"), "prompt"),
    "instruction_stop": (lambda model: prompted(model, instruction_stop="."), "prompt"),
    "picture_break": (lambda model: prompted(model, picture_break=False), "prompt"),
    "chat template in memory": (without_template, "chat_template"),
    "policy": (lambda model: model.at_resolution("clip"), "resolution"),
    "min_pixels": (lambda model: bounded(model, min_pixels=28 * 28 * 12), "resolution"),
    "max_pixels": (lambda model: bounded(model, max_pixels=28 * 28 * 2), "resolution"),
    "dtype": (lambda model: load(TINY, dtype="bfloat16"), "dtype"),
    "max_length": (lambda model: replace(model, build=replace(model.build, max_length=100)), "max_length"),
}  # fmt: skip
NOT_IN_THESE_INPUTS = {"instruction_stop"}  # no input has an instruction


@pytest.mark.parametrize("name", CHANGED)
def test_a_setting(name, tiny, plain):
    change, key = CHANGED[name]
    model = change(tiny)
    assert model.fingerprint[key] != plain[0][key]
    if name not in NOT_IN_THESE_INPUTS:
        assert (vectors(model) - plain[1]).abs().max() > MOVED


@dataclass(frozen=True)
class Own:
    """A pooling with a setting."""

    setting: int


def test_backend_attention_and_pooling(tiny, plain, monkeypatch):
    """Those of which the vectors need not move, or which need what is not installed."""
    backend = resolved(tiny, backend="torchvision")
    monkeypatch.setattr(fingerprints, "_version", lambda name, numbers: "1")
    assert backend.fingerprint["resolution"] != plain[0]["resolution"]
    assert "torchvision" in backend.fingerprint["libraries"]
    assert load(TINY, attn_implementation="eager").fingerprint["attention"] != plain[0]["attention"]
    assert plain[0]["pooling"] == "last_token"  # as stores, clusters and checkpoints of earlier versions have it
    digests = [fingerprints.digest_value(replace(tiny, pooling=Own(setting)).fingerprint) for setting in (1, 2)]
    assert len({*digests, fingerprints.digest_value(plain[0])}) == 3


def test_each_setting_of_the_image_processor(plain):
    model = load(TINY)
    processor = model.backbone.processor.image_processor
    names = [name for name in processor.to_dict() if hasattr(processor, name) and name != "image_processor_type"]
    assert {"image_mean", "do_resize", "resample", "size", "patch_size"} <= set(names)
    for name in names:
        value = getattr(processor, name)
        setattr(processor, name, "another")
        assert model.fingerprint["image_processor"] != plain[0]["image_processor"], name
        setattr(processor, name, value)
    assert model.fingerprint == plain[0]


def test_each_setting_of_an_image_slot(tmp_path):
    make_checkpoint("llava_next", tmp_path / "model")
    model = load(tmp_path / "model")
    before, processor = model.fingerprint["processor"], model.backbone.processor
    for name in ("patch_size", "vision_feature_select_strategy", "num_additional_image_tokens"):
        assert name in before
        setattr(processor, name, "another")
        assert model.fingerprint["processor"] != before
        setattr(processor, name, before[name])


@pytest.mark.parametrize(
    ("library", "version", "counts"),
    [
        ("torch", "{major}.{next}.0", False),
        ("torch", "{later}.0.0", True),
        ("pillow", "{major}.{next}.0", False),
        ("pillow", "{later}.0.0", True),
        ("transformers", "{major}.{next}.0", True),
        ("transformers", "{major}.{minor}.99", False),
        ("tokenizers", "{major}.{next}.0", True),
        ("peft", "{major}.{next}.0", False),  # without an adapter
        ("numpy", "{later}.0.0", False),
    ],
)
def test_versions_of_libraries(tiny, plain, monkeypatch, library, version, counts):
    installed = importlib.metadata.version
    major, minor = map(int, installed(library).split(".")[:2])
    newer = version.format(major=major, minor=minor, next=minor + 1, later=major + 1)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: newer if name == library else installed(name))
    fingerprints._version.cache_clear()
    try:
        assert (tiny.fingerprint != plain[0]) == counts
    finally:
        fingerprints._version.cache_clear()


def test_a_version_of_peft_counts_under_an_adapter(adapter, monkeypatch):
    model = load(adapter)
    assert model.fingerprint["libraries"]["peft"] == ".".join(peft.__version__.split(".")[:2])


def test_what_moves_nothing_but_rounding_is_no_change(tiny, plain, tmp_path):
    shutil.copytree(TINY, tmp_path / "moved")
    for model in (
        replace(tiny, packing=False),
        load(tmp_path / "moved"),
        load(TINY, picture_cache_gib=0),
        load(TINY, compiled=True),
    ):
        assert model.fingerprint == plain[0]
    assert (vectors(replace(tiny, packing=False)) - plain[1]).abs().max() < SAME
    tiny.backbone.tokenizer.padding_side = "left"
    try:
        assert tiny.fingerprint == plain[0]
        assert (vectors(replace(tiny, packing=False)) - plain[1]).abs().max() < SAME
    finally:
        tiny.backbone.tokenizer.padding_side = "right"


def test_the_settings_are_those_that_are_listed(tiny):
    assert list(tiny.fingerprint) == list(fingerprints.SETTINGS)


def test_the_docs_list_every_file_and_setting():
    text = (REPOSITORY / "docs/reliability.md").read_text()
    section = text.partition("## What decides an embedding")[2].partition("\n## ")[0]
    for name in (*DECIDING, *INERT, *fingerprints.SETTINGS):
        assert f"`{name}`" in section, name


def test_a_prompt_has_no_setting_that_is_left_out():
    """A new field of `Prompt` has to be described, and so gets a row above."""
    fields = {"system", "suffix", "convention", "instruction_stop", "picture_break"}
    assert set(Prompt.__dataclass_fields__) == fields
    assert set(Prompt(instruction_stop=".", picture_break=False).describe()) == fields


# --- what loading opens ---------------------------------------------------------------------------------------------

AUDITED: set[str] | None = None  # what Python opens, while it is a set


def audit(event: str, args: tuple) -> None:
    if AUDITED is not None and event == "open" and isinstance(args[0], str | bytes):
        AUDITED.add(os.fsdecode(args[0]))


IN_OPEN, IN_NONBLOCK, IN_ISDIR = 0x20, 0o4000, 0x40000000


class Watch:
    """Names of the files below a folder that any code opens, Rust's included, as the kernel (inotify) tells."""

    def __init__(self, folder: Path) -> None:
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.queue = self.libc.inotify_init1(IN_NONBLOCK)
        assert self.queue >= 0
        folders = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
        self.folders = {self.libc.inotify_add_watch(self.queue, os.fsencode(path), IN_OPEN): path for path in folders}

    def opened(self) -> set[str]:
        names = set()
        try:
            while data := os.read(self.queue, 1 << 16):
                while data:
                    watch, mask, _, length = struct.unpack_from("iIII", data)
                    name, data = data[16 : 16 + length].rstrip(b"\0"), data[16 + length :]
                    if name and not mask & IN_ISDIR:
                        names.add(str(self.folders[watch] / os.fsdecode(name)))
        except BlockingIOError:
            return names
        finally:
            os.close(self.queue)
        return names


def opened(folder: Path, *watched: Path, **settings) -> set[str]:
    """The files below some folders that loading opens, by their names, before they are digested.

    In a child process: a hook cannot be removed.
    """
    known = file_digests(TINY)
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        status = 1
        try:
            global AUDITED  # noqa: PLW0603
            torch.set_num_threads(
                1
            )  # renews the pool of threads, which a fork breaks and transformers' threads race for
            sys.addaudithook(audit)
            watches = [Watch(each) for each in watched or (folder,)]
            AUDITED = set()
            from gen2embed.model import adapter as adapters
            from gen2embed.model import backbone

            backbone.file_digests = lambda *_: known
            adapters.adapter_identity = lambda _: "not read"
            load(folder, **settings)
            names = {name for watch in watches for name in watch.opened()}
            roots = tuple(f"{each}/" for each in watched or (folder,))
            names |= {name for name in AUDITED if name.startswith(roots)}
            os.write(write, json.dumps(sorted(names)).encode())
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(write)
    with os.fdopen(read) as pipe:
        text = pipe.read()
    assert os.waitpid(child, 0)[1] == 0
    return set(json.loads(text))


def decided(folder: Path, remote_code: bool = False) -> set[str]:
    return {str(path) for path in deciding_files(folder, remote_code).values()}


def check_opened(folder: Path, **settings) -> None:
    names = opened(folder, **settings)
    least = {str(folder / name) for name in ("config.json", "tokenizer.json")}
    assert least <= names  # or nothing was watched
    assert any(name.endswith((".safetensors", ".bin")) for name in names)
    inert = {str(folder / name) for name in INERT}
    assert names <= decided(folder, settings.get("trust_remote_code", False)) | inert


@pytest.mark.parametrize("family", FAMILIES)
def test_loading_opens_no_file_that_is_not_listed(family, tmp_path):
    make_checkpoint(family, tmp_path / "model")
    check_opened(tmp_path / "model")


@pytest.mark.parametrize("kind", ["sharded", "legacy", "every file"])
def test_loading_other_checkpoints_opens_no_file_that_is_not_listed(kind, sharded, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree({"sharded": sharded, "legacy": GOLDEN / "checkpoint", "every file": TINY}[kind], folder)
    if kind == "every file":
        for row in FILES:
            if not row.name.startswith(("config", "model.safetensors", "tokenizer", "vocab", "chat_template.json")):
                row.change(folder)
    check_opened(folder, convention="reference")


def test_loading_trusted_code_opens_no_file_that_is_not_listed(trusted):
    names = opened(trusted, trust_remote_code=True)
    assert {str(trusted / "own.py"), str(trusted / "own_words.py")} <= names
    assert names <= decided(trusted, remote_code=True) | {str(trusted / name) for name in INERT}


def test_loading_an_adapter_opens_no_file_that_is_not_listed(adapter):
    names = opened(adapter, adapter)
    listed = {"adapter_config.json", "adapter_model.safetensors", CARD}  # of a card, prompt and resolution are settings
    assert names == {str(adapter / name) for name in listed}


def test_the_watch_sees_what_rust_opens(tmp_path):
    shutil.copy(TINY / "model.safetensors", tmp_path)
    watch = Watch(tmp_path)
    with safetensors.safe_open(tmp_path / "model.safetensors", "pt"):
        pass
    (tmp_path / "other").write_text("opened")
    assert watch.opened() == {str(tmp_path / "model.safetensors"), str(tmp_path / "other")}
