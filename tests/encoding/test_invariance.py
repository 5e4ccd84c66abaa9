"""How work is cut, and who does it, changes no result: loaders' workers, sizes of batches and chunks, and order.

Beside it, vectors are compared in `test_encoding.py` (batches, order, workers), every family's in `test_backbones.py`,
gradients in chunks in `test_gradcache.py`, on ranks in `test_distributed.py`, and clusters in `test_mining.py`.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import SIZE
from steps import LORA, attached, cached, collating, error, make_module, varied_pairs

from gen2embed.encoding.engine import Engine
from gen2embed.evaluation.evaluate import evaluate
from gen2embed.training.batches import ClusterBatchSampler, RankBatchSampler
from gen2embed.training.datamodule import PairDataModule
from gen2embed.utils.workers import Prefetch
from gen2embed.world.data import read_world

GROUPS = {"all": ["shape", "vqa_count", "t2i", "change"]}


@pytest.fixture(scope="module")
def scored(tiny, world):
    """Scores and predictions of the small world by an engine, whose tasks come in an order."""
    benchmark = read_world(world.folder, GROUPS, queries=SIZE["queries"], subsets=GROUPS["all"])

    def score(engine, order=1):
        evaluation = evaluate(tiny, engine, replace(benchmark, tasks=benchmark.tasks[::order]), resamples=20)
        rows = sorted(evaluation.predictions.to_pylist(), key=lambda row: (row["task"], row["query"]))
        return evaluation.scores, rows

    return score, score(Engine())


@pytest.mark.parametrize(
    ("options", "order", "tolerance"),
    [
        ({"workers": 2}, 1, 0),
        ({"batch_tokens": 200}, 1, 2e-6),
        ({"batch_tokens": 1}, 1, 2e-6),
        ({"shard_size": 7}, 1, 2e-6),
        ({"workers": 2, "batch_tokens": 300, "shard_size": 20}, -1, 2e-6),
    ],
)
def test_scores(scored, options, order, tolerance):
    """Every score is the same, and every similarity within a tolerance, of 1."""
    score, (expected, rows) = scored
    scores, reordered = score(Engine(**options), order)
    assert scores == expected if order == 1 else scores["tasks"] == expected["tasks"]
    assert len(rows) == 4 * SIZE["queries"]
    for first, second in zip(rows, reordered, strict=True):
        similarities, others = np.array(first.pop("top_similarities")), np.array(second.pop("top_similarities"))
        assert np.abs(similarities - others).max() <= tolerance
        assert first == second
        first["top_similarities"] = similarities.tolist()


@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_gradients_do_not_depend_on_chunks_and_the_order_of_rows(world, chunk):
    """In float64, within 1e-10 of the largest."""
    pairs = varied_pairs(world)
    order = np.random.default_rng(0).permutation(len(pairs))
    straight, mixed = (make_module(attached(LORA), mask_known=True) for _ in range(2))
    expected, gradients = cached(straight, pairs), cached(mixed, [pairs[row] for row in order], chunk)
    assert gradients["loss"].item() == pytest.approx(expected["loss"].item(), abs=1e-10)
    assert expected["gradients"]
    assert error(gradients, expected) < 1e-10


def test_batches_do_not_depend_on_the_workers_that_prepare_them(world, tiny):
    """To the bit, and from whatever batch a run goes on."""
    pairs = varied_pairs(world)
    batches = []
    for workers, first in ((0, 0), (1, 0), (2, 0), (2, 3)):
        share = RankBatchSampler(ClusterBatchSampler([], len(pairs), 4, 0), 0, first)
        loader = iter(PairDataModule(pairs, share, collating(tiny, None), Prefetch(workers)).train_dataloader())
        batches.append([None] * first + [next(loader) for _ in range(6 - first)])
    for batch in batches[1:]:
        for direct, loaded in zip(batches[0], batch, strict=True):
            if loaded is not None:
                assert direct.rows == loaded.rows
                assert torch.equal(direct.order, loaded.order)
                for ours, theirs in zip(direct.chunks, loaded.chunks, strict=True):
                    assert all(torch.equal(ours.inputs[name], theirs.inputs[name]) for name in ours.inputs)
