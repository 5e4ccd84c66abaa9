"""Every export, loaded by the library that it is for."""

import argparse
import base64
import importlib.util
import io
import json
import re
import runpy
import subprocess
import sys
import threading
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import peft
import pytest
import torch
import yaml
from checkpoints import FAMILIES, make_checkpoint
from conftest import GOLDEN, INPUTS, REPOSITORY, TINY, noise
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from gen2embed import Embedder, UserError
from gen2embed.cli import export as arguments
from gen2embed.cli.commands import export as command
from gen2embed.config.presets import compose_shipped
from gen2embed.config.values import plain
from gen2embed.encoding.engine import Engine
from gen2embed.evaluation.evaluate import evaluate
from gen2embed.export import kinds, sentences, write
from gen2embed.export.sentences import lent_processor
from gen2embed.export.write import KINDS, ExportSource, export
from gen2embed.model.adapter import Lora, save
from gen2embed.outputs import redacted
from gen2embed.runs import results
from gen2embed.types import Item
from gen2embed.utils.choices import EXPORT_KINDS, ROLES
from gen2embed.world.data import read_world

MARKED = "<|image_1|>"  # what other libraries do not know
PLAIN = [given for given in INPUTS if MARKED not in (given if isinstance(given, str) else given.get("text", ""))]
GIVEN = [*PLAIN, "  spaced  ", "{{ jinja }}", "not an end: <|im_end|>", {"image": noise(9, (500, 90)), "text": "what?"}]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run as train.py leaves it: an adapter that changes vectors, and its scores."""
    folder = tmp_path_factory.mktemp("run")
    model = Embedder.from_pretrained(TINY, resolution="original", device="cpu")
    backbone = Lora(["q_proj", "v_proj", "down_proj"]).attach(model.backbone)
    torch.manual_seed(0)
    for name, parameter in backbone.full.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    save(replace(model, backbone=backbone), folder / "adapter")
    adapted = Embedder.from_pretrained(folder / "adapter", device="cpu")
    tasks = read_world(folder / "world", queries=2, subsets=["shape"], groups={"classification": ["shape"]})
    evaluation = evaluate(adapted, Engine(shown=False), tasks, 10, 0)
    config = plain(compose_shipped("train", ["model=tiny", "output_dir=outputs"]), resolve=False)
    manifest = results.manifest(config, adapted.fingerprint, results.timing(evaluation.encoded, 1.0))
    results.write_results(folder, evaluation.scores, evaluation.predictions, manifest)
    return folder


@pytest.fixture(scope="module")
def truth(trained):
    """What the model makes of the inputs, by role; different in each role, and not what the base makes of them."""
    model, base = (Embedder.from_pretrained(path, device="cpu") for path in (trained / "adapter", TINY))
    vectors = {role: model.encode(GIVEN, role) for role in ROLES}
    assert (vectors["query"] * vectors["candidate"]).sum(dim=1).max() < 0.999
    assert (vectors["query"] * base.encode(GIVEN, "query")).sum(dim=1).max() < 0.999
    return vectors


def test_the_command_line_offers_each_kind():
    assert tuple(KINDS) == EXPORT_KINDS


def run(*args):
    parser = argparse.ArgumentParser()
    arguments.add_arguments(parser)
    command.run(parser.parse_args([str(arg) for arg in args]))


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    """Every kind, once, by the command."""
    folder = tmp_path_factory.mktemp("exported")
    for kind in KINDS:
        run(kind, "--model", trained / "adapter", "--run", trained, "--license", "mit", "--output", folder / kind)
    return folder


def load_sentences(folder, **options):
    """As users do; where torchvision is missing, the library cannot build the processor, and is lent ours."""
    from sentence_transformers import SentenceTransformer

    with lent_processor(Path(folder)):
        return SentenceTransformer(str(folder), device="cpu", **options)


def same(found, wanted):
    return torch.nn.functional.cosine_similarity(torch.as_tensor(found), wanted, dim=-1).min() > 0.99999


# --- each in its own library ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["merged", "vllm", "sentence-transformers"])
def test_a_checkpoint_is_one_to_transformers_and_to_us(exported, truth, kind):
    folder = exported / kind
    _, info = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not any("lora" in name for name in load_file(folder / "model.safetensors"))
    model = Embedder.from_pretrained(folder, device="cpu")  # prompt and resolution from its card
    for role in ROLES:
        assert same(model.encode(GIVEN, role), truth[role])


def test_an_adapter_is_one_to_peft_and_to_us(exported, truth):
    folder = exported / "adapter"
    settings = json.loads((folder / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(TINY)
    base = AutoModelForImageTextToText.from_pretrained(settings["base_model_name_or_path"])
    adapted = peft.PeftModel.from_pretrained(base, folder)
    weights = {name: tensor for name, tensor in adapted.state_dict().items() if "lora_B" in name}
    assert weights
    assert all(tensor.abs().max() > 0 for tensor in weights.values())
    assert same(Embedder.from_pretrained(folder, device="cpu").encode(GIVEN, "query"), truth["query"])


def test_sentence_transformers(exported, truth):
    model = load_sentences(exported / "sentence-transformers")
    assert same(model.encode_query(GIVEN, batch_size=3), truth["query"])
    assert same(model.encode_document(GIVEN, batch_size=4), truth["candidate"])
    assert same(model.encode(GIVEN), truth["candidate"])
    for given, vector in zip(GIVEN, truth["query"], strict=True):
        assert same(model.encode_query(given), vector)
    reversed_keys = [dict(reversed(given.items())) if isinstance(given, dict) else given for given in GIVEN]
    assert same(model.encode_query(reversed_keys), truth["query"])
    assert model.similarity_fn_name == "cosine"


def test_sentence_transformers_takes_another_instruction(exported, trained):
    model = load_sentences(exported / "sentence-transformers")
    asked = "Say in one word what is shown."
    ours = Embedder.from_pretrained(trained / "adapter", device="cpu")
    given = [{**(one if isinstance(one, dict) else {"text": one}), "instruction": asked} for one in GIVEN]
    assert same(model.encode_query(GIVEN, prompt=asked), ours.encode(given, "query"))


def test_sentence_transformers_keeps_level_2_of_a_long_text(exported, trained):
    model, ours = load_sentences(exported / "sentence-transformers"), Embedder.from_pretrained(trained / "adapter")
    long = "a red circle, " * 1000
    wanted = ours.build.token_ids(Item.create(long), "query")
    found = model.preprocess([long], prompt=model.prompts["query"], task="query")["input_ids"][0].tolist()
    assert len(found) == len(wanted) == ours.build.max_length
    assert found[:1000] == wanted[:1000]  # the cut itself may fall into a word or before it
    end = "\nRepresent the given text in one word.<|im_end|>\n<|im_start|>assistant\n"
    assert ours.backbone.tokenizer.decode(found).endswith(end)


@pytest.mark.parametrize(
    ("given", "settings"),
    [
        ({"resolution": "clip"}, {"policy": "clip", "flat_positions": False}),
        ({"resolution": "original", "convention": "reference"}, {"policy": "original", "flat_positions": True}),
        ({"resolution": "clamp", "convention": "reference"}, {"policy": "clamp", "flat_positions": True}),
    ],
    ids=["resized", "reference", "the paper's"],
)
def test_sentence_transformers_with_code_of_its_own(trained, tmp_path, given, settings):
    source = ExportSource(str(GOLDEN / "checkpoint"), adapter=str(GOLDEN / "adapter"), device="cpu", **given)
    folder = tmp_path / "with_code"
    export("sentence-transformers", source, folder)
    config = json.loads((folder / "sentence_bert_config.json").read_text())
    assert {key: config[key] for key in settings} == settings
    with pytest.raises(ValueError, match="trust_remote_code"):
        load_sentences(folder)
    model, ours = load_sentences(folder, trust_remote_code=True), source.load()
    inputs = GIVEN[:-1] if "convention" in given else GIVEN  # of the reference's small picture budget
    assert same(model.encode_query(inputs), ours.encode(inputs, "query"))
    assert same(model.encode_document(inputs), ours.encode(inputs, "candidate"))
    assert same(Embedder.from_pretrained(folder, device="cpu").encode(inputs, "query"), ours.encode(inputs, "query"))


@pytest.mark.slow
@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "smolvlm"])  # whose processor wants videos
def test_sentence_transformers_of_every_family(family, tmp_path):
    make_checkpoint(family, tmp_path / family)
    source = ExportSource(str(tmp_path / family), device="cpu")
    check = export("sentence-transformers", source, tmp_path / "out", "bfloat16")
    assert check["parity"] > 0.99999 > check["rounding"] > 0.9


STUBBED = """
import importlib.util, pathlib, re, sys
import torch

# torchvision of PyPI needs the operators of its own C library, which a PyTorch for CPUs does not load: name them.
source = pathlib.Path(importlib.util.find_spec("torchvision").origin).with_name("_meta_registrations.py").read_text()
library = torch.library.Library("torchvision", "FRAGMENT")
for name in dict.fromkeys(re.findall(r'"(?:torchvision::)?(\\w+)"\\)\\n', source)):
    library.define(name + "() -> ()")

from sentence_transformers import SentenceTransformer
from transformers.utils import is_torchvision_available

assert is_torchvision_available()
sys.path.insert(0, sys.argv[2])
import test_export

model = SentenceTransformer(sys.argv[1], device="cpu")
assert type(model[0].processor.image_processor).__name__.endswith("Pil"), "the pixels are not ours"
torch.save(torch.as_tensor(model.encode_query(test_export.GIVEN)), sys.argv[3])
"""


@pytest.mark.skipif(
    importlib.util.find_spec("torchvision") is None,
    reason="torchvision is not installed, without which sentence-transformers cannot build the processor of a model "
    "that also takes videos; the other tests lend it ours",
)
def test_sentence_transformers_with_torchvision(exported, truth, tmp_path):
    script = tmp_path / "stubbed.py"
    script.write_text(STUBBED)
    folder, tests, out = exported / "sentence-transformers", REPOSITORY / "tests", tmp_path / "vectors.pt"
    subprocess.run([sys.executable, script, folder, tests, out], check=True, cwd=REPOSITORY)
    assert same(torch.load(out), truth["query"])


# --- the recipe for vLLM --------------------------------------------------------------------------------------------


class Server(BaseHTTPRequestHandler):
    """What vLLM's documentation says that its embeddings endpoint does with messages."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.path == "/v1/embeddings"
        pictures, messages = [], []
        for message in body["messages"]:
            content = []
            for part in message["content"]:
                if part["type"] == "image_url":
                    encoded = part["image_url"]["url"].removeprefix("data:image/png;base64,")
                    pictures.append(Image.open(io.BytesIO(base64.b64decode(encoded))))
                content.append({"type": "image"} if part["type"] == "image_url" else part)
            messages.append({**message, "content": content})
        model = self.server.model
        processor = model.backbone.processor
        prompt = processor.apply_chat_template(
            messages,
            self.server.template,
            add_generation_prompt=body["add_generation_prompt"],
            **body["chat_template_kwargs"],
        )
        inputs = processor(text=[prompt], images=pictures or None, return_tensors="pt")
        with torch.inference_mode():
            vector = model.embed_inputs(dict(inputs))[0]
        answer = json.dumps({"data": [{"embedding": vector.tolist()}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *args):
        pass


def blocks(folder, language):
    return re.findall(rf"```{language}\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)


@pytest.mark.parametrize("resolution", ["original", "clip"])
def test_the_requests_to_vllm_ask_for_our_vectors(trained, tmp_path, monkeypatch, capsys, resolution):
    folder = tmp_path / "served"
    export("vllm", ExportSource(str(trained / "adapter"), resolution=resolution, device="cpu"), folder)
    command_line, (snippet,) = " ".join(blocks(folder, "bash")), blocks(folder, "python")
    assert "vllm serve served --runner pooling" in command_line
    assert "--chat-template served/embedding.jinja" in command_line
    ours = Embedder.from_pretrained(folder, device="cpu")
    server = HTTPServer(("127.0.0.1", 0), Server)
    server.model, server.template = ours, (folder / "embedding.jinja").read_text()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.syspath_prepend(folder)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "snippet.py").write_text(snippet.replace("localhost:8000", f"127.0.0.1:{server.server_port}"))
    made = runpy.run_path("snippet.py")
    assert "[" in capsys.readouterr().out
    embed = made["embed"]
    wide = noise(4, (300, 80))
    asked = [("a red square", None), ("What colour is it?", made["picture"]), ("", wide)]
    given = [{"text": text, "image": picture} for text, picture in asked]
    for task, role in (("query", "query"), ("document", "candidate")):
        found = [embed(task, text, picture) for text, picture in asked]
        assert same(torch.tensor(found), ours.encode(given, role))
    server.shutdown()
    server.server_close()


# --- the card -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["merged", "adapter", "sentence-transformers"])
def test_snippets_run(exported, kind, monkeypatch, capsys):
    monkeypatch.chdir(exported)
    for number, snippet in enumerate(blocks(exported / kind, "python")):
        Path(f"{kind}{number}.py").write_text(snippet)
        with lent_processor(exported / "sentence-transformers"):
            runpy.run_path(f"{kind}{number}.py")
    assert "tensor([[" in capsys.readouterr().out


@pytest.mark.parametrize("kind", KINDS)
def test_cards(exported, trained, kind):
    text = (exported / kind / "README.md").read_text()
    header = yaml.safe_load(text.split("---\n")[1])
    assert header["license"] == "mit"
    assert header["library_name"] == KINDS[kind].library
    assert header["pipeline_tag"] == "feature-extraction"
    assert kind in header["tags"]
    assert "base_model" not in header  # a folder of this machine is none to the hub
    assert str(TINY) in text
    score = json.loads((trained / "results.json").read_text())["tasks"]["shape"]
    low, high = (f"{100 * bound:.1f}" for bound in score["ci95"])
    assert f"| shape | 2 | {100 * score['precision@1']:.1f} | {low} - {high} |" in text
    assert "gen2embed.world.data.World" in text
    assert '"num_warmup_steps": 20' in text
    assert r"\nRepresent the given text/image in one word." in text
    assert not re.search(r"\{[{%]|None|\n\n\n", re.sub(r"```.*?```", "code", text, flags=re.DOTALL))


def test_a_copy_of_the_base_gets_its_name(trained, tmp_path):
    run("adapter", "--model", trained / "adapter", "--base-name", "some/base", "--output", tmp_path / "named")
    assert json.loads((tmp_path / "named/adapter_config.json").read_text())["base_model_name_or_path"] == "some/base"
    header = yaml.safe_load((tmp_path / "named/README.md").read_text().split("---\n")[1])
    assert header["base_model"] == "some/base"
    assert header["base_model_relation"] == "adapter"


def test_rounded_weights_are_said_to_be(trained, tmp_path, capsys):
    run("merged", "--model", trained / "adapter", "--dtype", "bfloat16", "--output", tmp_path / "half")
    weights = load_file(tmp_path / "half/model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    assert re.search(r"rounding the weights left 0\.99\d+", capsys.readouterr().out)
    assert "Rounding the weights to bfloat16" in (tmp_path / "half/README.md").read_text()


def test_scores_on_several_benchmarks(trained, tmp_path):
    scores = json.loads((trained / "results.json").read_text())
    manifest = scores.pop("manifest")
    redacted.write_json(tmp_path / "run/results.json", {"benchmarks": {"world": scores, "again": scores}})
    redacted.write_json(tmp_path / "run/manifest.json", manifest)
    run("adapter", "--model", trained / "adapter", "--run", tmp_path / "run", "--output", tmp_path / "out")
    text = (tmp_path / "out/README.md").read_text()
    assert text.count("| shape | 2 |") == 2
    assert "again, precision@1" in text


def test_a_fully_tuned_model_and_its_scores(trained, tmp_path):
    model = Embedder.from_pretrained(TINY, resolution="original", device="cpu")
    with torch.no_grad():
        model.backbone.full.model.language_model.norm.weight.mul_(torch.linspace(0.5, 2, model.dim))
    tuned = save(model, tmp_path / "tuned")
    scores = json.loads((trained / "results.json").read_text())
    manifest = {**scores["manifest"], "fingerprint": tuned.fingerprint}
    redacted.write_json(tmp_path / "run/results.json", scores)
    redacted.write_json(tmp_path / "run/manifest.json", manifest)
    run("merged", "--model", tmp_path / "tuned", "--run", tmp_path / "run", "--output", tmp_path / "out")
    assert same(Embedder.from_pretrained(tmp_path / "out", device="cpu").encode(GIVEN), model.encode(GIVEN))
    with pytest.raises(UserError, match="are not of this model: adapter"):
        run("merged", "--model", TINY, "--run", tmp_path / "run", "--output", tmp_path / "other")


# --- what is refused ------------------------------------------------------------------------------------------------


def without_level_2(*args, **options):
    return template(*args, **options).replace("Represent the given", "Describe the")


template = sentences.chat_template
BREAKS = {
    "prompt": (sentences, "chat_template", without_level_2),
    "code": (sentences, "needs_code", lambda embedder: False),
    "weights": (write, "merge", lambda backbone: Embedder.from_pretrained(TINY, device="cpu").backbone),
    "library": (sentences, "_forward", lambda name: {"method": "fly", "method_output_name": "last_hidden_state"}),
}


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("prompt", "cosine -?0.* for the query"),
        ("code", "cosine -?0.* for the (query|candidate) picture of"),
        ("weights", "cosine -?0.*"),
        ("library", "does not embed the sample with sentence-transformers: ValueError: .*'fly'"),
    ],
)
def test_a_broken_export_is_not_written(trained, tmp_path, monkeypatch, broken, said):
    monkeypatch.setattr(*BREAKS[broken])
    with pytest.raises(UserError, match=said):
        source = ExportSource(str(trained / "adapter"), resolution="clip", device="cpu")
        export("sentence-transformers", source, tmp_path / "out")
    assert not list(tmp_path.iterdir())


@dataclass(frozen=True)
class FirstToken:
    """A pooling that no other library has."""

    def __call__(self, hidden, samples):
        return hidden[samples.mask.int().argmax(dim=1)]


def test_a_pooling_that_a_library_lacks_is_refused(tiny):
    pooled = replace(tiny, pooling=FirstToken())
    for kind in ("sentence-transformers", "vllm"):
        KINDS[kind].refuse(tiny)
        with pytest.raises(UserError, match=r"FirstToken.*; export it as merged or adapter"):
            KINDS[kind].refuse(pooled)
    for kind in ("merged", "adapter"):
        KINDS[kind].refuse(pooled)


def test_an_adapter_that_was_not_saved_whole_is_not_written(trained, tmp_path, monkeypatch):
    def halved(embedder, folder):
        for name, parameter in embedder.backbone.full.named_parameters():
            if "lora_B" in name:
                parameter.data.mul_(0.5)
        return save(embedder, folder)

    monkeypatch.setattr(kinds, "save", halved)
    with pytest.raises(UserError, match=r"the adapter export .* cosine -?0"):
        export("adapter", ExportSource(str(trained / "adapter"), device="cpu"), tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        ("onnx", {}, "the kind 'onnx' is unknown; choose one of merged, adapter, sentence-transformers, vllm"),
        ("merge", {}, r"did you mean merged\?"),
        ("adapter", {"model": str(TINY)}, "has no adapter to export; give it as --adapter"),
        ("adapter", {"dtype": "bfloat16"}, "an adapter keeps its own type; leave dtype=bfloat16 out"),
        ("merged", {"model": str(GOLDEN / "adapter")}, "does not name its base"),
        ("merged", {"model": "nowhere"}, "the model folder nowhere does not exist"),
        ("merged", {"adapter": str(TINY)}, "is not an adapter"),
        ("merged", {"run": Path("nowhere")}, "--run=nowhere has no nowhere/results.json"),
        ("vllm", {"convention": "reference"}, "vLLM gives image tokens the model's own positions"),
    ],
)
def test_refusals(trained, tmp_path, kind, options, said):
    given = {"model": str(trained / "adapter"), "device": "cpu", **options}
    dtype = given.pop("dtype", "float32")
    with pytest.raises(UserError, match=said):
        export(kind, ExportSource(**given), tmp_path / "out", dtype)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_there_is_kept(trained, tmp_path):
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(UserError, match="is not empty: it holds mine; name a new folder"):
        export("merged", ExportSource(str(trained / "adapter")), tmp_path)
    assert (tmp_path / "mine").read_text() == "mine"


def test_scores_of_another_model_are_refused(trained, tmp_path):
    with pytest.raises(UserError, match="are not of this model: adapter"):
        export("merged", ExportSource(str(TINY), resolution="original", run=trained, device="cpu"), tmp_path / "out")
    with pytest.raises(UserError, match="are not of this model: prompt"):
        source = ExportSource(str(trained / "adapter"), prompt="none", run=trained, device="cpu")
        export("merged", source, tmp_path / "out")


def test_results_of_no_run_are_refused(trained, tmp_path):
    for name in ("results", "manifest"):
        redacted.write_json(tmp_path / f"demo/{name}.json", {"arm": {}})
    with pytest.raises(UserError, match="is not of one run"):
        export("merged", ExportSource(str(trained / "adapter"), run=tmp_path / "demo"), tmp_path / "out")


def test_a_missing_library_is_named(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(sentences, "LIBRARY", "not_installed")
    with pytest.raises(UserError, match=r"pip install 'gen2embed\[serve\]'"):
        export("sentence-transformers", ExportSource(str(trained / "adapter"), device="cpu"), tmp_path / "out")
