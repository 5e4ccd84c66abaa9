"""Pooling: by a loop, in padded batches and packed rows, and carried by a checkpoint."""

import json
import sys
from dataclasses import dataclass, replace

import pytest
import torch
from conftest import TINY
from torch import Tensor

from gen2embed import Embedder, UserError
from gen2embed.model.card import CARD, read_card
from gen2embed.model.pooling import LastToken, SampleTokens, describe_pooling, target_of

SOURCE = """
from dataclasses import dataclass

@dataclass(frozen=True)
class Sum:
    factor: float = 1.0

    def __call__(self, hidden, samples):
        return self.factor * samples.mask.to(hidden.dtype) @ hidden
"""
TEXTS = ["a red circle", "a red ring, left of a star", "a red circle", "blue"]
INPUTS = [*TEXTS, {"image": TINY.parents[2] / "tests/golden/images/3.png", "text": "what?"}]


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A pooling in a user's module."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules/gen2embed_sum.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path / "modules")
    monkeypatch.delitem(sys.modules, "gen2embed_sum", raising=False)
    import gen2embed_sum

    return gen2embed_sum.Sum(2.0)


@dataclass(frozen=True)
class Mean:
    """The mean of a sample's tokens."""

    def __call__(self, hidden: Tensor, samples: SampleTokens) -> Tensor:
        mask = samples.mask.to(hidden.dtype)
        return mask @ hidden / mask.sum(dim=1, keepdim=True)


def test_the_last_token_against_a_loop():
    hidden = torch.randn(3, 5, 2)
    mask = torch.tensor([[1, 1, 0, 0, 0], [0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    expected = [row[max(i for i in range(5) if kept[i])] for row, kept in zip(hidden, mask, strict=True)]
    assert torch.equal(LastToken()(hidden.flatten(0, 1), SampleTokens.padded(mask)), torch.stack(expected))
    means = [row[kept.bool()].mean(0) for row, kept in zip(hidden, mask, strict=True)]
    torch.testing.assert_close(Mean()(hidden.flatten(0, 1), SampleTokens.padded(mask)), torch.stack(means))


@pytest.mark.parametrize("pooling", [LastToken(), Mean()])
def test_packed_rows_are_pooled_as_padded_batches(tiny, pooling):
    """Samples that begin alike, equal ones, and a picture."""
    packed, padded = (replace(tiny, pooling=pooling, packing=packing) for packing in (True, False))
    assert packed.packs
    assert not padded.packs
    torch.testing.assert_close(packed.encode(INPUTS), padded.encode(INPUTS), atol=1e-6, rtol=0)


def test_a_mean_is_another_vector(tiny):
    assert (replace(tiny, pooling=Mean()).encode(INPUTS) - tiny.encode(INPUTS)).abs().max() > 0.01


def test_vectors_of_another_shape_are_refused(tiny):
    @dataclass(frozen=True)
    class Short:
        def __call__(self, hidden, samples):
            return hidden[samples.last, :8]

    with pytest.raises(UserError, match=r"Short.*\(1, 8\); return \(1, 128\)"):
        replace(tiny, pooling=Short()).encode("a")


# --- what a checkpoint carries ---------------------------------------------------------------------------------------


def test_the_last_token_is_what_cards_of_earlier_versions_mean(tiny, tmp_path):
    tiny.save_pretrained(tmp_path / "saved")
    assert "pooling" not in read_card(tmp_path / "saved")
    assert Embedder.from_pretrained(tmp_path / "saved", device="cpu").pooling == LastToken()
    assert describe_pooling(LastToken()) == "last_token"
    assert target_of(LastToken()) == {"_target_": "gen2embed.model.pooling.LastToken"}


def test_a_checkpoint_carries_its_pooling(own, tiny, tmp_path, caplog, monkeypatch):
    folder = tmp_path / "saved"
    embedder = replace(tiny, pooling=own)
    embedder.save_pretrained(folder)
    again = Embedder.from_pretrained(folder, device="cpu")
    assert again.pooling == own
    assert torch.equal(again.encode(INPUTS), embedder.encode(INPUTS))
    assert not caplog.text
    assert Embedder.from_pretrained(folder, device="cpu", pooling="last").pooling == LastToken()
    assert "not as the checkpoint" in caplog.text
    assert "pooling" in caplog.text
    monkeypatch.setattr(sys, "path", [path for path in sys.path if not path.endswith("modules")])
    monkeypatch.delitem(sys.modules, "gen2embed_sum")
    with pytest.raises(UserError, match=r"pooling.*gen2embed_sum\.Sum.*PYTHONPATH"):
        Embedder.from_pretrained(folder, device="cpu")


@pytest.mark.parametrize("call", ["os.system", "gen2embed.utils.files.write_atomic", "gen2embed.model.prompts.Prompt"])
def test_a_card_calls_nothing_but_a_pooling(tiny, tmp_path, call):
    tiny.save_pretrained(tmp_path / "saved")
    card = read_card(tmp_path / "saved")
    (tmp_path / "saved" / CARD).write_text(json.dumps({**card, "pooling": {"_target_": call}}))
    with pytest.raises(UserError, match=r"pooling.*is not allowed"):
        Embedder.from_pretrained(tmp_path / "saved", device="cpu")


@pytest.mark.parametrize(
    ("pooling", "error"), [("lsat", "choose one of last"), (Mean, "dataclass"), (len, "dataclass")]
)
def test_what_is_no_pooling(pooling, error):
    with pytest.raises(UserError, match=error):
        Embedder.from_pretrained(TINY, device="cpu", pooling=pooling)
