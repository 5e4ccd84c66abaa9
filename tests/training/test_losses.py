"""InfoNCE and its options against plain loops, and their properties."""

import math

import pytest
import torch
from steps import LORA, attached, cached, error, make_module, varied_pairs, whole
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gen2embed import UserError
from gen2embed.training import losses
from gen2embed.training.losses import LARGEST_SCALE, ContrastiveTargets, InfoNCE, batch_metrics
from gen2embed.training.plain_loss import contrastive_loss, try_loss

KEYS = [0, 1, 2, 1, 4, 1, 0]  # of the positives
NEGATIVES = [7, 2, 8]  # of explicit negatives; one is the positive of row 2
KNOWN = {0: {0, 4}, 2: {2, 8}}  # by row, all the positives of its query


def naive(queries, candidates, keys, options):
    """The loss in plain words."""
    total = 0.0
    for i, query in enumerate(queries):
        similarity = [float(query @ candidate) for candidate in candidates]
        left = []
        for j, key in enumerate(keys):
            out = (
                (options.get("mask_identical", True) and key == keys[i])
                or (options.get("mask_known") and key in KNOWN.get(i, {keys[i]}))
                or ("mask_margin" in options and similarity[j] > similarity[i] + options["mask_margin"])
            )
            if j == i or not out:
                left.append(j)
        scores = {j: math.exp(similarity[j] / options.get("temperature", 0.3)) for j in left}
        total -= math.log(scores[i] / sum(scores.values()))
    return total / len(queries)


def batch(count=7, explicit=True):
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(2 * count + 3, 6, generator=generator, dtype=torch.float64)
    vectors = torch.nn.functional.normalize(vectors, dim=-1)
    keys = KEYS[:count] + (NEGATIVES if explicit else [])
    known = [sorted(KNOWN.get(i, {keys[i]})) for i in range(count)]
    answers = ContrastiveTargets(torch.tensor(keys), torch.tensor([(its * 2)[:2] for its in known]))
    return vectors[:count], vectors[count : count + len(keys)], keys, answers


OPTIONS = [
    {},
    {"mask_identical": False},
    {"mask_known": True},
    {"mask_identical": False, "mask_known": True},
    {"mask_margin": 0.1},
    {"mask_margin": -0.2, "mask_known": True},
    {"learn_temperature": True},
]


@pytest.mark.parametrize("explicit", [True, False])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_against_a_loop(options, explicit):
    queries, candidates, keys, answers = batch(explicit=explicit)
    value = InfoNCE(0.3, **options).double()(queries, candidates, answers)
    expected = naive(queries, candidates, keys, options)
    assert value.item() == pytest.approx(expected, abs=1e-7 if "learn_temperature" in options else 1e-12)
    if options and "learn_temperature" not in options:
        assert expected != pytest.approx(naive(queries, candidates, keys, {}), abs=1e-3)  # the option says something


@pytest.mark.parametrize("options", [{}, {"mask_known": True, "mask_margin": 0.1, "dims": [3, 6]}], ids=str)
def test_in_blocks_it_is_the_same(options, monkeypatch):
    *sides, _, answers = batch()
    found = []
    for size in (1, 2, 5, 7):  # queries at a time
        monkeypatch.setattr(losses, "BLOCK", size * len(sides[1]))
        inputs = [side.clone().requires_grad_() for side in sides]
        loss = InfoNCE(0.3, **options, learn_temperature=True)
        value = loss(*inputs, answers)
        value.backward()
        tensors = [
            value,
            *batch_metrics(*inputs, answers, loss).values(),
            loss.log_scale.grad,
            *(side.grad for side in inputs),
        ]
        found.append(torch.cat([tensor.detach().double().flatten() for tensor in tensors]))
    assert all((one - found[-1]).abs().max() < 1e-6 for one in found)  # the scale is in single precision


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that is made."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **kwargs or {})
        its = [tensor.numel() for tensor in tree_leaves(made) if isinstance(tensor, torch.Tensor)]
        self.elements = max([self.elements, *its])
        return made


@pytest.mark.parametrize("options", [{}, {"mask_known": True, "mask_margin": 0.1, "dims": [3, 6]}], ids=str)
def test_nothing_is_larger_than_a_block(options, monkeypatch):
    *sides, _, answers = batch()
    monkeypatch.setattr(losses, "BLOCK", 2 * len(sides[1]))
    inputs = [side.clone().requires_grad_() for side in sides]
    with Largest() as largest:
        loss = InfoNCE(0.3, **options)
        loss(*inputs, answers).backward()
        batch_metrics(*inputs, answers, loss)
    assert largest.elements <= max(losses.BLOCK, sides[1].numel()) < 7 * len(sides[1])


def test_describe_against_a_loop():
    queries, candidates, keys, answers = batch()
    right = [[key in {keys[i], *KNOWN.get(i, ())} for key in keys] for i in range(7)]
    similarity = [[float(query @ candidate) for candidate in candidates] for query in queries]
    best = [max(range(len(keys)), key=row.__getitem__) for row in similarity]
    wrong = [similarity[i][j] for i in range(7) for j in range(len(keys)) if not right[i][j]]
    found = batch_metrics(queries, candidates, answers, InfoNCE())
    assert found["accuracy"] == pytest.approx(sum(right[i][at] for i, at in enumerate(best)) / 7)
    assert found["positive_similarity"] == pytest.approx(sum(similarity[i][i] for i in range(7)) / 7)
    assert found["negative_similarity"] == pytest.approx(sum(wrong) / len(wrong))
    assert found["without_negatives"] == 0


def test_queries_without_negatives():
    """Four queries; the first two share a positive, and every training row pairs the third with all candidates."""
    vectors = torch.nn.functional.normalize(torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), dim=1)
    numbers = torch.tensor([5, 5, 6, 7])
    known = torch.tensor([[5, 5, 5], [5, 5, 5], [6, 5, 7], [7, 7, 7]])
    answers = ContrastiveTargets(numbers, known)
    sides = vectors, vectors.roll(1, 0)

    def count(answers, **options):
        return batch_metrics(*sides, answers, InfoNCE(**options))["without_negatives"].item()

    assert count(answers) == 0
    assert count(answers, mask_known=True) == 1
    assert count(answers, mask_margin=-2.0) == 4
    alike = ContrastiveTargets(torch.full((4,), 5), torch.full((4, 1), 5))
    assert count(alike) == count(alike, mask_identical=False) == 4


def test_dims_are_the_mean_over_cut_vectors():
    queries, candidates, keys, answers = batch()
    value = InfoNCE(0.3, dims=[2, 4, 6])(queries, candidates, answers)
    cut = []
    for dim in (2, 4, 6):
        sides = [[row[:dim] / row[:dim].norm() for row in side] for side in (queries, candidates)]
        cut.append(naive(*sides, keys, {}))
    assert value.item() == pytest.approx(sum(cut) / 3, abs=1e-12)
    assert max(cut) - min(cut) > 0.01


@pytest.mark.parametrize("row", range(7))
def test_the_mask_removes_exactly_the_duplicates(row):
    """Of one query, the others being zero: a candidate in its sum has a gradient, a masked one has none."""
    queries, candidates, keys, answers = batch(explicit=False)
    queries = queries * torch.eye(7, dtype=torch.float64)[row][:, None]
    candidates = candidates.clone().requires_grad_()
    for masked in (True, False):
        loss = InfoNCE(0.3, mask_identical=masked)(queries, candidates, answers)
        (gradient,) = torch.autograd.grad(loss, candidates)
        reached = (gradient.abs().sum(-1) > 0).tolist()
        assert reached == [j == row or not masked or keys[j] != keys[row] for j in range(7)]


def test_explicit_negatives_push_every_query():
    queries, candidates, _, answers = batch()
    candidates = candidates.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(InfoNCE(0.3)(queries, candidates, answers), candidates)
    assert (gradient[7:].abs().sum(-1) > 0).all()


def test_the_temperature_learns_and_is_bounded():
    queries, candidates, _, answers = batch()
    loss = InfoNCE(0.3, learn_temperature=True)
    assert loss.scale().item() == pytest.approx(1 / 0.3)
    loss(queries, candidates, answers).backward()
    assert abs(loss.log_scale.grad) > 1e-3
    assert not list(InfoNCE(0.3).parameters())  # off unless chosen
    with torch.no_grad():
        loss.log_scale.fill_(9.0)
    assert loss.scale() == LARGEST_SCALE


def test_zero_embeddings_give_the_log_of_the_candidates():
    zero = torch.zeros(7, 5)
    *_, answers = batch(explicit=False)
    assert InfoNCE(mask_identical=False)(zero, zero, answers).item() == pytest.approx(math.log(7))
    counts = 7 - answers.identical(slice(0, 7)).sum(1) + 1
    assert InfoNCE()(zero, zero, answers).item() == pytest.approx(counts.log().mean().item())


def test_the_order_of_a_batch_does_not_matter():
    queries, candidates, _, answers = batch(explicit=False)
    order = torch.randperm(7, generator=torch.Generator().manual_seed(1))
    loss = InfoNCE(0.3, mask_known=True, mask_margin=0.1)
    one = loss(queries, candidates, answers)
    other = loss(queries[order], candidates[order], ContrastiveTargets(answers.candidates[order], answers.known[order]))
    assert one.item() == pytest.approx(other.item(), abs=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0}, r"loss.temperature is above 0; got 0"),
        ({"dims": []}, r"loss.dims are numbers of at least 1, or null for whole vectors; got \[\]"),
        ({"dims": [4, 0]}, r"loss.dims are numbers of at least 1, .*; got \[4, 0\]"),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(UserError, match=message):
        InfoNCE(**options)


def test_dims_beyond_the_vectors():
    queries, candidates, _, answers = batch()
    with pytest.raises(UserError, match=r"loss.dims=\[8\] go beyond the model's vectors of 6 elements"):
        InfoNCE(dims=[8])(queries, candidates, answers)


# --- a loss of one's own --------------------------------------------------------------------------------------------


class Biased(nn.Module):
    """Cross-entropy with a learned bias against explicit negatives, and nothing that `ContrastiveLoss` has."""

    def __init__(self):
        super().__init__()
        self.bias, self.idle = nn.Parameter(torch.tensor([0.3])), nn.Parameter(torch.ones(2))

    def forward(self, queries, candidates, targets):
        explicit = torch.arange(len(candidates)) >= len(queries)
        logits = queries @ candidates.T / 0.1 - self.bias * explicit
        return nn.functional.cross_entropy(logits, torch.arange(len(queries)))


def test_a_plain_module_is_trained_with_its_parameters(world):
    pairs = varied_pairs(world)
    steps = [make_module(attached(LORA), loss=contrastive_loss(Biased().double())) for _ in range(2)]
    found, expected = cached(steps[0], pairs), whole(steps[1], pairs)
    assert found["loss"].item() == pytest.approx(expected["loss"].item(), abs=1e-12)
    assert error(found, expected) < 1e-10
    assert expected["gradients"]["loss.module.bias"].abs() > 1e-3
    assert "loss.module.idle" not in found["gradients"]  # what the loss does not use has no gradient
    assert found["without_negatives"] == 0


class Two(nn.Module):
    def forward(self, queries, candidates):
        return (queries - candidates).square().sum()


class Each(nn.Module):
    def forward(self, queries, candidates, targets):
        return (queries @ candidates.T).logsumexp(1)


class Idle(nn.Module):
    def forward(self, queries, candidates, targets):
        return torch.zeros(())


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (object(), "object is not a torch.nn.Module; derive it"),
        (Two(), r"Two has forward\(queries, candidates\); it must take \(queries, candidates, targets\)"),
        (Each(), r"Each returned a tensor of shape \[2\]; return one scalar"),
        (Idle(), r"Idle has no gradient for its queries and candidates; compute it from both"),
        (InfoNCE(dims=[16]), r"loss.dims=\[16\] go beyond the model's vectors of 8 elements"),
    ],
)
def test_a_loss_that_does_not_fit(module, message):
    with pytest.raises(UserError, match=message):
        try_loss(contrastive_loss(module), 8)
