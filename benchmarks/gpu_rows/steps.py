"""Row 6: a cached step of many pairs, by ours and by the published scheme; its time, its memory, and the prediction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from ours import make_step
from rivals import Reference, trained
from torch import Tensor
from torch.optim import AdamW
from yardstick import OURS, REFERENCE, draw_pairs

from gen2embed import Embedder
from gen2embed.encoding.batch import Inputs
from gen2embed.training.datamodule import Collate, TrainingBatch
from gen2embed.types import Pair
from gpu_rows.bench import adapt, make_embedder, set_dropout
from gpu_rows.clock import Peak, measure_peak, take_turns
from gpu_rows.gradients import mixed
from gpu_rows.operations import count_operations
from gpu_rows.prediction import Forecast
from gpu_rows.works import in_processes

if TYPE_CHECKING:
    from gpu_rows.bench import Bench

PREDICTION, SPEEDUP = 15, 2  # goals: percent; times as fast as the published scheme
SAMPLED = 32  # pairs that the prediction looks at, as in train.py
RATE = 1e-5  # of the optimiser


@dataclass(frozen=True)
class Trainee:
    """A model in training, with an optimiser whose moments are there."""

    embedder: Embedder
    optimizer: AdamW
    device: torch.device

    @classmethod
    def make(cls, bench: Bench, dropout: float) -> Trainee:
        """Return Qwen2-VL's shape in bfloat16 with the paper's adapter, of which peft keeps the weights in float32."""
        embedder = adapt(make_embedder(bench.setting.shape, torch.bfloat16, bench.device), dropout)
        return cls(embedder, AdamW(trained(embedder.backbone.full).values(), lr=RATE), bench.device)

    def batch(self, pairs: Sequence[Pair], tokens: int | None = None) -> tuple[Collate, TrainingBatch]:
        """Return what makes batches, and that of the pairs, pinned for a GPU."""
        collate, _ = make_step(self.embedder, 0, tokens)
        batch = collate(pairs)
        return collate, batch.pin_memory() if self.device.type == "cuda" else batch

    def ours(self, batch: TrainingBatch, keep: int) -> Tensor:
        """Take a whole step on a batch, which stays as it is; returns the loss."""
        _, step = make_step(self.embedder, keep)
        fresh = replace(batch, pictures=dict(batch.pictures))  # a step lets go of them
        return self._finish(lambda: step(fresh))

    def published(self, reference: Reference, chunks: Sequence[Inputs]) -> Tensor:
        """Take a whole step of the published scheme."""
        return self._finish(lambda: reference.cached(chunks))

    def _finish(self, gradient: Callable[[], Tensor]) -> Tensor:
        self.optimizer.zero_grad()
        with mixed(self.device):
            loss = gradient()
        torch.nn.utils.clip_grad_norm_(list(trained(self.embedder.backbone.full).values()), 1.0)
        self.optimizer.step()
        return loss


def run(bench: Bench) -> None:
    """Record steps with dropout, a large one among them, then without."""
    setting = bench.setting
    trainee = Trainee.make(bench, 0.1)
    trainee.ours(trainee.batch(draw_pairs("pictures", 4, setting.side))[1], 0)  # from here on there are moments
    pairs = draw_pairs("pictures", setting.pairs, setting.side, repeats=False)
    reference = Reference(trainee.embedder.backbone, trainee.embedder.build.prompt, setting.chunk)
    chunks = in_processes(lambda part: reference.prepare(*part), reference.parts(pairs), setting.workers)
    published = partial(trainee.published, reference, chunks)
    compare(bench, trainee, pairs, 0.1, published)
    large(bench, trainee)
    set_dropout(trainee.embedder.backbone.full, 0.0)
    compare(bench, trainee, pairs, 0.0, published)


def compare(
    bench: Bench, trainee: Trainee, pairs: Sequence[Pair], dropout: float, published: Callable[[], Any]
) -> None:
    """Record time and memory of each scheme at one dropout."""
    add, name = bench.recorder.add, f"{len(pairs)} pairs, dropout {dropout:g}"
    collate, batch = trainee.batch(pairs)
    forecast = Forecast.make(trainee.embedder, collate, pairs[:SAMPLED], partial(mixed, bench.device))
    kept = min(forecast.graphs(len(pairs)), len(batch.chunks))
    add(f"{name}: chunks", len(batch.chunks))
    add(f"{name}: chunks whose graphs train.py would keep", kept)
    schemes: dict[str, Callable[[], Any]] = {
        f"{OURS}, no graph kept": partial(trainee.ours, batch, 0),
        f"{OURS}, graphs as chosen": partial(trainee.ours, batch, kept),
        REFERENCE: published,
    }
    remaining = dict(schemes)
    for scheme, step in schemes.items():
        try:
            peak = measure_peak(step, bench.device)
        except torch.cuda.OutOfMemoryError as error:
            bench.recorder.fail(error, f"{name}, {scheme}: out of memory")
            del remaining[scheme]
            continue
        add(f"{name}, {scheme}: peak", peak.most / 2**30, "GiB")
        if scheme != REFERENCE:
            graphs = kept if "chosen" in scheme else 0
            record_prediction(bench, f"{name}, {scheme}", forecast.peak(len(pairs), graphs), peak)
    seconds = {scheme: sorted(taken)[len(taken) // 2] for scheme, taken in _timed(bench, remaining).items()}
    operations = count_operations(bench.setting.shape, [batch])
    for scheme, taken in seconds.items():
        add(f"{name}, {scheme}", taken, "s")
        add(f"{name}, {scheme}", len(pairs) / taken, "pairs/s")
        if scheme == REFERENCE:
            continue
        share = bench.share(operations.step, taken)
        add(f"{name}, {scheme}: needed operations, of row 1's rate", share, "%")
        if REFERENCE in seconds:
            times = seconds[REFERENCE] / taken
            add(f"{name}, {scheme}: over {REFERENCE}", times, "times as fast", at_least=bench.on_card(SPEEDUP))


def _timed(bench: Bench, schemes: dict[str, Callable[[], Any]]) -> dict[str, list[float]]:
    """Return the seconds of schemes that were run before, to measure their memory."""
    return take_turns(schemes, bench.device, bench.setting.seconds, warm=False)


def record_prediction(bench: Bench, name: str, predicted: int, peak: Peak) -> None:
    """Record how far the predicted peak is off. On a CPU the measured one has the whole process in it."""
    bench.recorder.add(f"{name}: predicted peak", predicted / 2**30, "GiB")
    off = 100 * abs(predicted / peak.most - 1)
    bench.recorder.add(f"{name}: prediction off by", off, "%", at_most=bench.on_card(PREDICTION))


def large(bench: Bench, trainee: Trainee) -> None:
    """Record one step of many pairs, with dropout and as many graphs as train.py would keep."""
    count, add = bench.setting.many, bench.recorder.add
    pairs = draw_pairs("pictures", count, bench.setting.side, repeats=False)
    collate, batch = trainee.batch(pairs)
    forecast = Forecast.make(trainee.embedder, collate, pairs[:SAMPLED], partial(mixed, bench.device))
    kept = min(forecast.graphs(count), len(batch.chunks))
    name = f"{count} pairs, dropout 0.1, graphs of {kept} of {len(batch.chunks)} chunks"
    peak = measure_peak(partial(trainee.ours, batch, kept), bench.device)
    add(name, peak.seconds, "s")
    add(name, count / peak.seconds, "pairs/s")
    add(f"{name}: peak", peak.most / 2**30, "GiB")
    record_prediction(bench, name, forecast.peak(count, kept), peak)
