"""The shipped checkpoint: how it is made, and that making it teaches something."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY

from examples.tiny.dialogues import sample_dialogue
from examples.tiny.train import STEPS, Batches, make_image_processor, make_tokenizer, train
from gen2embed import Embedder
from gen2embed.config.presets import PACKAGE, load_preset
from gen2embed.data.mmeb import read_mmeb
from gen2embed.encoding.engine import Engine
from gen2embed.evaluation.evaluate import evaluate


def test_it_is_small_and_whole():
    assert sum(file.stat().st_size for file in TINY.iterdir()) < 5_000_000
    files = {file.name for file in TINY.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "preprocessor_config.json"} <= files


def test_the_library_does_not_know_it():
    """Outside of the folder that makes it, and of what puts it in for others without weights, no code names it."""
    for path in PACKAGE.rglob("*.py"):
        if path.parent.name != "tiny" and path.name not in ("rehearsal.py", "estimate.py"):
            assert "tiny" not in path.read_text(), path


def test_the_hierarchical_strings_are_held_out():
    prompt = load_preset("prompt", "hierarchical")
    held_out = [prompt.system["query"], *(text.strip() for text in prompt.suffix["query"].values())]
    words = {word for text in held_out for word in text.replace("/", " ").replace(".", " ").replace(",", " ").split()}
    rng, systems, seen = random.Random(0), set(), set()
    for _ in range(20_000):
        dialogue = sample_dialogue(rng, rng.random())
        said = [dialogue.system, *(text for turn in dialogue.turns for text in turn)]
        systems.add(dialogue.system)
        for text in said:
            assert not any(held in text for held in held_out)
            seen.update(text.replace("/", " ").replace(".", " ").replace(",", " ").split())
    assert len(systems) > 1000
    assert words <= seen  # its words are known, in other sentences


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer(3)


def test_only_answers_are_learned(tokenizer):
    for batch in Batches(tokenizer, steps=2, seed=0):
        learned = tokenizer.decode(batch["input_ids"][batch["labels"] != -100])
        assert "<|im_end|>" in learned
        assert "system" not in learned
        assert "<|image_pad|>" not in learned
        assert (batch["input_ids"][batch["labels"] != -100] == batch["labels"][batch["labels"] != -100]).all()


@pytest.mark.slow
def test_a_short_run_learns_and_repeats(tokenizer, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.float)  # in which Muon multiplies: slow on most CPUs
    monkeypatch.setattr("examples.tiny.train.TOKENS_PER_STEP", 600)
    anew = train(steps=3, seed=3)[2]
    monkeypatch.setattr("examples.tiny.train.make_tokenizer", lambda seed: tokenizer)
    assert train(steps=3, seed=3)[2] == anew
    model, _, losses = train(steps=50, seed=3)
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])
    assert len(tokenizer) <= 768
    assert sum(parameter.numel() for parameter in model.parameters()) < 1_500_000


@pytest.mark.slow
def test_the_recipe_embeds_zero_shot_by_the_prompt(tmp_path, world):
    """A quarter of the recipe: the prompt already beats chance and no prompt."""
    model, tokenizer, _ = train(steps=STEPS // 4, seed=1)
    for part in (model.to(torch.bfloat16), tokenizer, make_image_processor()):
        part.save_pretrained(tmp_path)
    folder = world.eval()
    groups = {"all": ["shape", "colour", "vqa_colour", "vqa_texture"]}
    benchmark = read_mmeb(str(folder), folder, groups)
    scores = {}
    for prompt in ("none", "hierarchical"):
        embedder = Embedder.from_pretrained(Path(tmp_path), prompt=prompt, resolution="original")
        scores[prompt] = evaluate(embedder, Engine(), benchmark, resamples=100).scores["overall"]
    assert scores["hierarchical"]["precision@1"] > scores["none"]["precision@1"]
    assert scores["hierarchical"]["ci95"][0] > scores["hierarchical"]["chance"]
