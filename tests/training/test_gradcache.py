"""The cached gradient is the gradient of the whole batch, in float64 to 1e-10: of a small net, and of real models."""

from dataclasses import replace

import pytest
import torch
from steps import EVERY, LORA, LOSSES, TARGETS, attached, cached, collating, error, make_module, varied_pairs, whole
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from gen2embed import Item
from gen2embed.model.adapter import Full, Lora
from gen2embed.training import gradcache
from gen2embed.training.gradcache import backward_cached
from gen2embed.training.losses import ContrastiveTargets, InfoNCE
from gen2embed.training.shortcuts import NO_SHORTCUTS, resolve
from gen2embed.types import Pair

ROWS = 10
OWN = ContrastiveTargets(torch.arange(ROWS // 2), torch.arange(ROWS // 2)[:, None])


class Net(nn.Module):
    def __init__(self, dropout):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 4))
        self.double()

    def forward(self, rows):
        return nn.functional.normalize(self.layers(rows), dim=-1)


def loss(embeddings):
    return InfoNCE(0.1)(*embeddings.split(ROWS // 2), OWN)


def data():
    return torch.randn(ROWS, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def net(dropout=0.0):
    torch.manual_seed(1)
    return Net(dropout).train()


def flat(model):
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def plain(model, chunks):
    """One graph over all chunks: the chunks matter with dropout only, whose masks they draw in turn."""
    value = loss(torch.cat([model(chunk) for chunk in chunks]))
    value.backward()
    return value, flat(model)


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("size", [1, 3, ROWS])
def test_equals_the_full_batch(size, dropout):
    chunks = data().split(size)
    assert size != 3 or len(chunks[-1]) == 1  # uneven
    one, other = net(dropout), net(dropout)
    torch.manual_seed(2)
    expected, gradient = plain(one, chunks)
    after = torch.rand(1)
    torch.manual_seed(2)
    value = backward_cached(chunks, other, loss)
    assert gradient.abs().max() > 1e-3
    assert value.item() == pytest.approx(expected.item(), abs=1e-12)
    assert (flat(other) - gradient).abs().max() < 1e-10
    assert torch.equal(torch.rand(1), after)  # the generator stands where one plain pass leaves it


def test_without_the_replayed_random_state_it_is_wrong(monkeypatch):
    chunks = data().split(3)
    one, other = net(0.4), net(0.4)
    torch.manual_seed(2)
    expected, gradient = plain(one, chunks)
    monkeypatch.setattr(gradcache, "set_random_state", lambda state: None)
    torch.manual_seed(2)
    value = backward_cached(chunks, other, loss)
    assert value.item() == pytest.approx(expected.item(), abs=1e-12)  # the loss does not show it
    assert (flat(other) - gradient).abs().max() / gradient.abs().max() > 0.1


def test_gradients_accumulate():
    model = net()
    backward_cached(data().split(3), model, loss)
    once = flat(model).clone()
    backward_cached(data().split(3), model, loss)
    assert torch.allclose(flat(model), 2 * once)


def test_chunks_may_be_of_any_kind():
    """Texts and pictures take other paths through a model: an embed callable may branch."""
    model, other = net(), nn.Linear(6, 4).double()

    def embed(chunk):
        kind, rows = chunk
        return model(rows) if kind == "text" else nn.functional.normalize(other(rows), dim=-1)

    parts = data().split([4, 3, 3])
    chunks = list(zip(["text", "picture", "text"], parts, strict=True))
    loss(torch.cat([embed(chunk) for chunk in chunks])).backward()
    expected = [p.grad.clone() for p in (*model.parameters(), *other.parameters())]
    for module in (model, other):
        module.zero_grad()
    backward_cached(chunks, embed, loss)
    for parameter, gradient in zip((*model.parameters(), *other.parameters()), expected, strict=True):
        assert (parameter.grad - gradient).abs().max() < 1e-10


# --- the step of a real model ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pairs(world):
    return varied_pairs(world)


def taken(wanted, module):
    """Those that the module may take."""
    return resolve(wanted, module.embedder, lockstep=False)[0]


ADAPTERS = {
    "lora": LORA,
    "dora": replace(LORA, dora=True),
    "vision": Lora((*TARGETS, "qkv"), r=4, dropout=0.0, vision=True),
    "full": Full(),
    "full, vision": Full(vision=True),
}


SHORTCUTS = {
    "none": NO_SHORTCUTS,
    **{name: replace(NO_SHORTCUTS, **{name: True}) for name in ("deduplicate", "cache_vision", "cache_dora_norms")},
    "retain_graphs": replace(NO_SHORTCUTS, retain_graphs=2),
    "every": EVERY,
}


@pytest.mark.parametrize(
    ("adapter", "loss", "chunk", "shortcuts"),
    [
        *(("lora", loss, 3, "every") for loss in LOSSES),
        *((adapter, "all", 2, "every") for adapter in ADAPTERS if adapter != "lora"),
        *(("dora", "all", 3, shortcuts) for shortcuts in SHORTCUTS),
        ("dora", "identical", 1, "every"),
        ("dora", "identical", 100, "every"),
    ],
)
def test_the_step_is_the_full_batch(pairs, adapter, loss, chunk, shortcuts):
    """In float64, with explicit negatives; chunks of texts and of pictures, the last ones smaller."""
    plain, ours = (make_module(attached(ADAPTERS[adapter]), **LOSSES[loss]) for _ in range(2))
    ours.shortcuts = taken(SHORTCUTS[shortcuts], ours)
    expected, found = whole(plain, pairs), cached(ours, pairs, chunk)
    assert found["loss"].item() == pytest.approx(expected["loss"].item(), abs=1e-10)
    assert error(found, expected) < 1e-10
    visual = [name for name in found["gradients"] if "visual" in name]
    assert bool(visual) == ("vision" in adapter)
    assert all(found["gradients"][name].any() for name in visual)
    assert ("loss.log_scale" in found["gradients"]) == LOSSES[loss].get("learn_temperature", False)
    if loss not in ("identical", "all"):
        other = whole(make_module(attached(ADAPTERS[adapter])), pairs)
        assert found["loss"].item() != pytest.approx(other["loss"].item(), abs=1e-4) or loss == "temperature"


def test_metrics_are_those_of_the_batch(pairs):
    module = make_module(attached(LORA))
    expected, found = whole(module, pairs), cached(make_module(attached(LORA)), pairs)
    for name in ("accuracy", "positive_similarity"):
        assert found[name].item() == pytest.approx(expected[name].item(), abs=1e-7), name
    assert found["negative_similarity"] < found["positive_similarity"]


@pytest.mark.parametrize("adapter", ["lora", "dora"])
def test_dropout_is_replayed_exactly(pairs, adapter, monkeypatch):
    dropped = replace(ADAPTERS[adapter], dropout=0.3)
    expected = whole(make_module(attached(dropped)), pairs, chunk=2)
    found = cached(make_module(attached(dropped)), pairs, chunk=2)
    assert found["loss"].item() == pytest.approx(expected["loss"].item(), abs=1e-10)
    assert error(found, expected) < 1e-10
    without = whole(make_module(attached(ADAPTERS[adapter])), pairs)
    assert found["loss"].item() != pytest.approx(without["loss"].item(), abs=1e-3)
    monkeypatch.setattr(gradcache, "set_random_state", lambda state: None)
    wrong = cached(make_module(attached(dropped)), pairs, chunk=2)
    assert wrong["loss"] == found["loss"]  # nothing shows
    assert error(wrong, expected) > 0.1


def test_layers_that_are_computed_again_give_the_same_gradient(pairs):
    """Gradient checkpointing, with dropout."""
    adapter, found, calls = replace(LORA, dropout=0.3), [], []
    for again in (False, True):
        module = make_module(attached(adapter))
        if again:
            module.model.activation_checkpointing_enable({"use_reentrant": False})
        layer = module.embedder.backbone.model.language_model.layers[0].mlp
        count = layer.register_forward_pre_hook(lambda *_, counted=calls, which=again: counted.append(which))
        found.append(cached(module, pairs))
        count.remove()
    assert calls.count(True) == 1.5 * calls.count(False) > 0  # without a graph, with one, and in its backward pass
    assert error(found[1], found[0]) < 1e-10


def test_mixed_precision_is_cached_right(pairs):
    """bf16 autocast caches casts of the weights: those of the pass without a graph must not serve the other."""

    def run(step):
        module = make_module(attached(ADAPTERS["full"], torch.float32))
        with torch.autocast("cpu", torch.bfloat16):
            return step(module, pairs)

    expected, plain, found = (
        whole(make_module(attached(ADAPTERS["full"], torch.float32)), pairs),
        run(whole),
        run(cached),
    )
    assert set(found["gradients"]) == set(expected["gradients"])
    assert 1e-4 < error(plain, expected) < 0.05  # rounding
    assert error(found, expected) < 1.5 * error(plain, expected)


class HostSynchronisations(TorchDispatchMode):
    """Counts operations for which a host waits for its GPU: those that make a number, or a shape, of tensors."""

    NAMES = ("aten._local_scalar_dense", "aten.nonzero", "aten.masked_select", "aten.repeat_interleave.Tensor")
    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        masked = str(function).startswith("aten.index.") and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        self.count += masked or str(function).startswith(self.NAMES)
        return function(*args, **kwargs or {})


def synchronisations(pairs, size):
    """In a step, and of how many chunks it is."""
    module = make_module(attached(LORA), shortcuts=replace(EVERY, retain_graphs=0))
    batch = collating(module.embedder, size, share=True)(pairs)
    with HostSynchronisations() as counted:
        module.accumulate(batch)
    return counted.count, len(batch.chunks), sum(chunk.pictured for chunk in batch.chunks)


def test_a_step_does_not_wait_for_its_chunks(pairs):
    """Once for the loss, whether it is finite; transformers asks in each pass with pictures whether they fit."""
    texts = [Pair(Item.create(f"{number} rings"), Item.create(f"{number} moons"), "x", number) for number in range(4)]
    counts = [synchronisations(texts, size) for size in (100, 1)]
    assert [count for count, *_ in counts] == [1, 1]
    assert counts[0][1] < counts[1][1]
    few, many = (synchronisations(pairs, size) for size in (100, 2))
    assert many[0] - few[0] == 2 * 2 * (many[2] - few[2]) > 0  # transformers' two, in both passes
