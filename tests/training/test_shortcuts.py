"""What a step leaves out: only where its gradient stays the same, and then it does leave it out."""

from dataclasses import replace

import pytest
import torch
from checkpoints import make_checkpoint
from conftest import folders
from peft.tuners.lora.dora import DoraLinearLayer
from steps import EVERY, LORA, TARGETS, attached, cached, count, error, load, make_module, varied_pairs, whole

from gen2embed import UserError
from gen2embed.config.presets import load_preset
from gen2embed.model.adapter import Full, Lora
from gen2embed.training import shortcuts
from gen2embed.training.memory import ChunkMemory, StepMemory
from gen2embed.training.shortcuts import NO_SHORTCUTS, Sampled, Shortcuts, graphs_to_retain, resolve

DORA = replace(LORA, dora=True)


@pytest.fixture(scope="module")
def pairs(world):
    return varied_pairs(world)


@pytest.mark.parametrize(
    ("adapter", "not_taken"),
    [
        (LORA, {"cache_dora_norms": "there is no DoRA"}),
        (DORA, {}),
        (replace(DORA, dropout=0.1), {"deduplicate": "there is dropout, which would be shared, too"}),
        (
            Lora((*TARGETS, "qkv"), vision=True, dropout=0.0, dora=True),
            {"cache_vision": "the vision tower is trained, or has dropout"},
        ),
        (Full(), {"cache_dora_norms": "there is no DoRA"}),
    ],
)
def test_they_are_taken_where_they_change_nothing(adapter, not_taken):
    embedder = attached(adapter, torch.float32)
    taken, why = resolve(Shortcuts(), embedder, lockstep=False)
    names = ("deduplicate", "cache_vision", "cache_dora_norms")
    assert why == {name: f"no: {not_taken[name]}" if name in not_taken else "yes" for name in names}
    assert {name: getattr(taken, name) for name in names} == {name: name not in not_taken for name in names}
    assert resolve(NO_SHORTCUTS, embedder, lockstep=False)[0] == NO_SHORTCUTS
    together, why = resolve(Shortcuts(retain_graphs=3), replace(embedder, packing=False), lockstep=True)
    assert (together.deduplicate, together.cache_vision, together.retain_graphs) == (False, False, 0)
    assert why["cache_vision"] == "no: the ranks share the weights"


def test_padded_rows_see_pictures_in_both_passes(pairs):
    embedder = replace(attached(DORA), packing=False)
    taken, why = resolve(Shortcuts(retain_graphs=1), embedder, lockstep=False)
    assert (taken.cache_vision, why["cache_vision"]) == (False, "no: rows are padded: packing is switched off")
    found = cached(make_module(embedder, shortcuts=taken), pairs)
    assert error(found, whole(make_module(attached(DORA)), pairs)) < 1e-10


@pytest.mark.parametrize("vision", [False, True])
def test_the_papers_targets_on_qwen2_5_vl(pairs, tmp_path, vision):
    """`down_proj` is in its vision tower, too; with adapters there, its features come from each pass."""
    make_checkpoint("qwen2_5_vl", tmp_path)
    paper = load_preset("adapter", "paper")
    adapter = replace(paper, dropout=0.0, vision=vision)
    modules = [make_module(attached(adapter, torch.float32, tmp_path)) for _ in range(2)]
    expected = whole(modules[0], pairs)
    taken, _ = resolve(EVERY, modules[1].embedder, lockstep=False)
    assert taken.cache_vision != vision
    modules[1].shortcuts = taken
    found = cached(modules[1], pairs)
    assert error(found, expected) < 1e-5
    assert any("visual" in name for name in found["gradients"]) == vision


def test_what_is_left_out(pairs, monkeypatch):
    """Norms, forward passes of the vision tower and of chunks; those without a graph replay their dropout."""
    embedder = attached(replace(DORA, dropout=0.3))
    layers = sum(isinstance(module, DoraLinearLayer) for module in embedder.backbone.full.modules())
    norms = count(monkeypatch, DoraLinearLayer, "get_weight_norm")
    passes = count(monkeypatch, type(embedder), "embed_chunk")
    seen = count(monkeypatch, type(embedder.backbone.model), "get_image_features")
    found, counts = {}, {}
    for name, taken in (("none", NO_SHORTCUTS), ("every", EVERY), ("all graphs", replace(EVERY, retain_graphs=100))):
        module = make_module(attached(replace(DORA, dropout=0.3)))
        module.shortcuts, _ = resolve(taken, module.embedder, lockstep=False)
        for calls in (norms, passes, seen):
            calls.clear()
        found[name] = cached(module, pairs)
        counts[name] = [len(norms), len(passes), len(seen)]
    chunks = counts["all graphs"][1]
    assert counts["none"][:2] == [2 * chunks * layers, 2 * chunks]
    assert counts["every"] == [layers, 2 * chunks - 2, 1]
    assert counts["all graphs"] == [layers, chunks, 1]
    assert counts["none"][2] > 2
    for name in ("every", "all graphs"):
        assert error(found[name], found["none"]) < 1e-10
    its = found["every"]["gradients"]
    assert all(torch.equal(gradient, its[name]) for name, gradient in found["all graphs"]["gradients"].items())
    assert not any("get_weight_norm" in vars(module) for module in embedder.backbone.full.modules())


def test_graphs_are_kept_while_there_is_room(monkeypatch):
    sampled = Sampled(8, 4, 100, (ChunkMemory(100, 150), ChunkMemory(50, 80)), vectors=0)
    needed = StepMemory(10**9, 200, 100, 30, 20, 0, 150)
    cpu = torch.device("cpu")
    monkeypatch.setattr(shortcuts, "free_bytes", lambda device: 6000)
    assert graphs_to_retain(None, needed, sampled, cpu, 1) == (27, "of up to 27 chunks: there is room for 0.0 MiB")
    assert graphs_to_retain(None, needed, sampled, cpu, 4)[0] == 5  # they share the machine's memory
    assert graphs_to_retain(3, needed, sampled, cpu, 1) == (3, "of 3 chunks, as chosen")
    monkeypatch.setattr(shortcuts, "free_bytes", lambda device: 10)
    assert graphs_to_retain(None, needed, sampled, cpu, 1)[0] == 0
    with pytest.raises(UserError, match=r"shortcuts.retain_graphs is a number of chunks, or null; got -1"):
        Shortcuts(retain_graphs=-1)


def test_a_run_without_them_is_the_same(world, run_script, tmp_path):
    """`shortcuts=none`; the table at the start says what is taken."""
    runs = {}
    for name in ("default", "none"):
        args = [
            "trainer=cpu",
            "mining=none",
            "adapter=dora",
            "adapter.dropout=0",
            "trainer.max_steps=3",
            "benchmark=none",
            "data.rows=24",
        ]
        args += ["batch.pairs=8", "callbacks=default", f"shortcuts={name}", f"output_dir={tmp_path / name}"]
        runs[name] = run_script("train.py", *args, *folders(world)[:1])
        assert runs[name].code == 0, runs[name].err
    said = {
        line.split("│")[1].strip(): line.split("│")[2].strip()
        for line in runs["default"].out.splitlines()
        if line.count("│") == 3
    }
    assert said["deduplicate"] == said["cache vision"] == said["cache dora norms"] == "yes"
    assert said["retain graphs"].startswith("of up to ")
    assert "no: switched off" in runs["none"].out
    weights = [load(adapter=tmp_path / name / "adapter").backbone.full.state_dict() for name in runs]
    trained = [name for name in weights[0] if "lora_B" in name]
    assert any(weights[0][name].abs().max() > 1e-4 for name in trained)
    for name in trained:
        torch.testing.assert_close(weights[0][name], weights[1][name], atol=2e-5, rtol=1e-3)
