"""DoRA's weight norms: kept while weights stay the same, in inference and within a step, with peft's bits."""

from dataclasses import replace

import peft
import pytest
import torch
from conftest import INPUTS
from peft.tuners.lora.dora import DoraLinearLayer
from steps import LORA, TARGETS, attached, cached, count, load, make_module, varied_pairs
from torch import nn

from gen2embed.model.adapter import Lora
from gen2embed.model.dora import CachingDoraLayer, cached_norms, keep_norms
from gen2embed.training.module import ContrastiveModule
from gen2embed.training.shortcuts import Shortcuts
from gen2embed.types import Item

DORA = replace(LORA, dora=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A saved DoRA adapter of the shipped checkpoint, whose weights are away from zero."""
    embedder = attached(DORA, torch.float32)
    folder = tmp_path_factory.mktemp("dora")
    embedder.save_pretrained(folder)
    return folder


def plain(embedder):
    """The same weights in layers that are peft's own."""
    layers = [module for module in embedder.backbone.full.modules() if isinstance(module, CachingDoraLayer)]
    assert layers
    for layer in layers:
        layer.__class__ = DoraLinearLayer
    return embedder


def test_inference_has_pefts_bits_and_computes_each_norm_once(folder, monkeypatch):
    expected = plain(load(adapter=folder)).encode(INPUTS)
    embedder = load(adapter=folder)
    layers = sum(isinstance(module, DoraLinearLayer) for module in embedder.backbone.full.modules())
    norms, eyes = count(monkeypatch, DoraLinearLayer, "get_weight_norm"), []
    monkeypatch.setattr(torch, "eye", lambda *args, **kwargs: eyes.append(args))
    for _ in range(2):
        assert torch.equal(embedder.encode(INPUTS), expected)
        assert torch.equal(embedder.encode(INPUTS, batch_tokens=64)[0], embedder.encode(INPUTS[0], batch_tokens=64)[0])
    assert len(norms) == 0  # loading compared the adapter with its base, and had them
    assert layers > 2
    with torch.no_grad():
        next(parameter for name, parameter in embedder.backbone.full.named_parameters() if "lora_B" in name).mul_(2)
    embedder.encode(INPUTS)
    assert len(norms) == 1
    assert not eyes


def in_place(full, part, change):
    with torch.no_grad():
        for name, parameter in full.named_parameters():
            if part in name:
                change(parameter)


def replace_data(parameter):
    parameter.data = parameter.data * 2


def load_another(full):
    state = {name: 3 * tensor for name, tensor in peft.get_peft_model_state_dict(full).items() if "lora_" in name}
    peft.set_peft_model_state_dict(full, state)


def scale(full):
    for module in full.modules():
        if isinstance(module, peft.tuners.lora.Linear):
            module.scaling["default"] *= 2


CHANGES = {
    "in place": lambda full: in_place(full, "lora_A", lambda parameter: parameter.add_(0.05)),
    "base": lambda full: in_place(full, "v_proj.base_layer.weight", lambda parameter: parameter.mul_(1.5)),
    "replaced": lambda full: in_place(full, "lora_B", replace_data),
    "loaded": load_another,
    "scaled": scale,
}


@pytest.mark.parametrize("change", CHANGES)
def test_norms_follow_the_weights(folder, change):
    embedder = load(adapter=folder)
    before = embedder.encode(INPUTS)
    CHANGES[change](embedder.backbone.full)
    after = embedder.encode(INPUTS)
    assert not torch.equal(after, before)
    assert torch.equal(after, plain(embedder).encode(INPUTS))


def test_norms_follow_training(folder, world):
    embedder = load(adapter=folder)
    before = embedder.encode(INPUTS)
    train_two_steps(embedder, varied_pairs(world))
    after = embedder.encode(INPUTS)
    assert not torch.equal(after, before)
    assert torch.equal(after, plain(embedder).encode(INPUTS))


def test_norms_follow_the_precision(folder):
    embedder, uncached = load(adapter=folder), plain(load(adapter=folder))
    before = embedder.encode(INPUTS)
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        after, expected = embedder.encode(INPUTS), uncached.encode(INPUTS)
    assert not torch.equal(after, before)
    assert torch.equal(after, expected)
    assert torch.equal(embedder.encode(INPUTS), before)


def train_two_steps(embedder, pairs):
    """With the norms of the step, and with a look at the vectors between the steps."""
    for name, parameter in embedder.backbone.full.named_parameters():
        parameter.requires_grad_("lora_" in name)
    module = make_module(embedder, shortcuts=Shortcuts(deduplicate=False, cache_vision=False))
    optimizer = torch.optim.SGD(module.trained, lr=1.0)
    for _ in range(2):
        module.train()
        cached(module, pairs)
        module.sync.step(optimizer, module.trained, 1.0)
        module.eval()
        shown = embedder.encode(INPUTS[:2])
    assert not shown.requires_grad


def test_a_norm_needs_no_identity_and_training_without_the_shortcut_is_pefts(monkeypatch):
    """Wide and narrow, in both precisions: B A of the rows of A, not of an identity matrix that they are put into."""
    for width, rows, dtype in ((48, 32, torch.float32), (500, 300, torch.float32), (300, 500, torch.bfloat16)):
        model = nn.Sequential(nn.Linear(width, rows, dtype=dtype))
        config = peft.LoraConfig(r=8, target_modules=["0"], use_dora=True, lora_dropout=0.0)
        model = peft.get_peft_model(model, config, autocast_adapter_dtype=True).train()
        nn.init.normal_(model.base_model.model[0].lora_B["default"].weight)
        x = torch.randn(3, width, dtype=dtype)
        expected, eyes = model(x), []
        keep_norms(model)
        assert torch.equal(model(x), expected)
        with monkeypatch.context() as patch:
            patch.setattr(torch, "eye", lambda *args, eyes=eyes, **kwargs: eyes.append(args))
            with cached_norms(model):
                assert torch.equal(model(x), expected)
            model.eval()
            assert torch.equal(model(x), expected)
        assert not eyes
    assert isinstance(model.base_model.model[0].lora_magnitude_vector["default"], CachingDoraLayer)


def test_merged_and_unmerged_again(folder):
    """A merge adds to the weight behind the layer's back."""
    embedder = load(adapter=folder)
    before = embedder.encode(INPUTS)
    embedder.backbone.full.merge_adapter()
    torch.testing.assert_close(embedder.encode(INPUTS), before, atol=2e-6, rtol=0)
    embedder.backbone.full.unmerge_adapter()
    assert torch.equal(embedder.encode(INPUTS), plain(embedder).encode(INPUTS))


def test_a_validation_between_steps_has_its_own_norms(world):
    """The step that follows is not the validation's either: the same as without one."""
    left = []
    for looks in (False, True):
        module = make_module(
            attached(replace(DORA, dropout=0.0), torch.float32), shortcuts=Shortcuts(deduplicate=False)
        )
        assert isinstance(module, ContrastiveModule)
        optimizer = torch.optim.SGD(module.trained, lr=0.5)
        for _ in range(2):
            cached(module, varied_pairs(world))
            module.sync.step(optimizer, module.trained, 1.0)
            if looks:
                module.eval()
                module.embedder.encode(INPUTS[:3])
                module.train()
        left.append(torch.cat([parameter.detach().flatten() for parameter in module.trained]))
    assert torch.equal(*left)


def test_a_vision_tower_too():
    embedder = attached(Lora((*TARGETS, "qkv"), vision=True, dropout=0.0, dora=True), torch.float32)
    embedder.backbone.full.eval()
    after = embedder.encode(INPUTS)
    assert torch.equal(after, plain(embedder).encode(INPUTS))


def test_a_pass_with_a_graph_after_one_in_inference_mode(folder):
    embedder = load(adapter=folder)  # which looks at its vectors in inference mode
    magnitude = next(parameter for name, parameter in embedder.backbone.full.named_parameters() if "magnitude" in name)
    magnitude.requires_grad_(True)
    embedder.embed([Item.create("a dog")], "query")[0, 0].backward()
    assert magnitude.grad.abs().max() > 0
