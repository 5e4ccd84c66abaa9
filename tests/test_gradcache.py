"""The cached gradient is the gradient of the whole batch: in float64 to 1e-10, dropout included."""

import pytest
import torch
from torch import nn

from gen2embed import gradcache
from gen2embed.gradcache import backward_cached
from gen2embed.losses import InfoNCE

ROWS = 10
OWN = torch.eye(ROWS // 2, dtype=torch.bool)


class Net(nn.Module):
    def __init__(self, dropout):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 4))
        self.double()

    def forward(self, rows):
        return nn.functional.normalize(self.layers(rows), dim=-1)


def loss(embeddings):
    return InfoNCE(0.1)(embeddings[: ROWS // 2], embeddings[ROWS // 2 :], OWN, OWN)


def data():
    return torch.randn(ROWS, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def net(dropout=0.0):
    torch.manual_seed(1)
    return Net(dropout).train()


def gradients(model):
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def plain(model, chunks):
    """One graph over all chunks: the chunks matter with dropout only, whose masks they draw in turn."""
    value = loss(torch.cat([model(chunk) for chunk in chunks]))
    value.backward()
    return value, gradients(model)


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
    assert (gradients(other) - gradient).abs().max() < 1e-10
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
    assert (gradients(other) - gradient).abs().max() / gradient.abs().max() > 0.1


def test_gradients_accumulate():
    model = net()
    backward_cached(data().split(3), model, loss)
    once = gradients(model).clone()
    backward_cached(data().split(3), model, loss)
    assert torch.allclose(gradients(model), 2 * once)


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
