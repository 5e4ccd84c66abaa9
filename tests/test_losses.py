"""InfoNCE against a plain loop, and its properties."""

import math

import pytest
import torch

from gen2embed import UserError
from gen2embed.losses import InfoNCE


def naive(queries, candidates, keys, temperature, masked):
    total = 0.0
    for i, query in enumerate(queries):
        kept = [j for j in range(len(keys)) if j == i or not (masked and keys[j] == keys[i])]
        scores = {j: math.exp(float(query @ candidates[j]) / temperature) for j in kept}
        total -= math.log(scores[i] / sum(scores.values()))
    return total / len(keys)


def batch(count=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.nn.functional.normalize(torch.randn(2, count, 5, generator=generator, dtype=torch.float64), dim=-1)
    keys = [0, 1, 2, 1, 4, 1, 0][:count]
    identical = torch.tensor(keys)[:, None] == torch.tensor(keys)
    return vectors[0], vectors[1], keys, identical


@pytest.mark.parametrize("masked", [True, False])
def test_against_a_loop(masked):
    queries, candidates, keys, identical = batch()
    value = InfoNCE(0.3, mask_identical=masked)(queries, candidates, identical)
    assert value.item() == pytest.approx(naive(queries, candidates, keys, 0.3, masked), abs=1e-12)


@pytest.mark.parametrize("row", range(7))
def test_the_mask_removes_exactly_the_duplicates(row):
    """Of one query, the others being zero: a candidate in its sum has a gradient, a masked one has none."""
    queries, candidates, keys, identical = batch()
    queries = queries * torch.eye(7, dtype=torch.float64)[row][:, None]
    candidates = candidates.clone().requires_grad_()
    for masked in (True, False):
        (gradient,) = torch.autograd.grad(InfoNCE(0.3, masked)(queries, candidates, identical), candidates)
        reached = (gradient.abs().sum(-1) > 0).tolist()
        assert reached == [j == row or not masked or keys[j] != keys[row] for j in range(7)]


def test_zero_embeddings_give_the_log_of_the_candidates():
    zero = torch.zeros(7, 5)
    *_, identical = batch()
    assert InfoNCE(mask_identical=False)(zero, zero, identical).item() == pytest.approx(math.log(7))
    counts = 7 - identical.sum(1) + 1
    assert InfoNCE()(zero, zero, identical).item() == pytest.approx(counts.log().mean().item())


def test_the_order_of_a_batch_does_not_matter():
    queries, candidates, _, identical = batch()
    order = torch.randperm(7, generator=torch.Generator().manual_seed(1))
    one = InfoNCE(0.3)(queries, candidates, identical)
    other = InfoNCE(0.3)(queries[order], candidates[order], identical[order][:, order])
    assert one.item() == pytest.approx(other.item(), abs=1e-12)


def test_bad_temperature():
    with pytest.raises(UserError, match=r"loss.temperature is above 0; got 0"):
        InfoNCE(0)
