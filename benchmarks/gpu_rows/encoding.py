"""Rows 4 and 5: how fast items become vectors, by ours, and by the others on the same weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from ours import encode
from rivals import Reference
from torch import Tensor
from yardstick import OURS, REFERENCE, RIVAL, over

from gen2embed import Embedder
from gen2embed.encoding.batch import Inputs, Prepared
from gen2embed.model.vision import FeatureCache
from gpu_rows.bench import make_embedder
from gpu_rows.clock import measure_peak, repeat, take_turns
from gpu_rows.operations import count_operations
from gpu_rows.works import draw, in_processes, prepare

if TYPE_CHECKING:
    from gpu_rows.bench import Bench

SHARE, SPEEDUP, COSINE = 60, 2, 0.99  # goals; the last is only that all embed the same, in bfloat16
KEPT = 2**30  # bytes of pictures' features, as model.picture_cache_gib has it


@torch.no_grad()
def embed_prepared(embedder: Embedder, parts: Sequence[Prepared]) -> Tensor:
    """Return the vectors of prepared items, in order: what the device does, without the preparation."""
    embedder = replace(embedder, feature_cache=FeatureCache(KEPT))  # nothing is kept from another run
    rows = []
    for part in parts:
        vectors = [embedder.embed_chunk(chunk, part.pictures) for chunk in part.chunks]
        rows.append(torch.cat(vectors)[part.order.to(embedder.backbone.device)])
    return torch.cat(rows)


def run(bench: Bench) -> None:
    """Record items and tokens a second, the share of row 1's rate, and memory."""
    embedder = make_embedder(bench.setting.shape, torch.bfloat16, bench.device)
    for work, count in bench.setting.items.items():
        measure(bench, embedder, work, count)


def measure(bench: Bench, embedder: Embedder, work: str, count: int) -> None:
    """Record one work."""
    setting, add = bench.setting, bench.recorder.add
    drawn = draw(work, count, setting.side)
    parts = prepare(embedder, work, drawn, setting.workers)
    operations = count_operations(setting.shape, parts)
    device = partial(embed_prepared, embedder, parts)
    peak = measure_peak(device, bench.device)
    seconds = repeat(device, bench.device, setting.seconds, warm=False)
    add(f"{work}: on the device", count / seconds, "items/s")
    add(f"{work}: on the device", operations.tokens / seconds, "tokens/s, each that is computed")
    add(f"{work}: share of row 1's rate", bench.share(operations.forward, seconds), "%", at_least=bench.on_card(SHARE))
    done = operations.text + operations.dense + operations.vision
    add(f"{work}: the same, masked pairs of tokens counted", bench.share(done, seconds), "%")
    add(f"{work}: operations", operations.forward / 1e12, "TFLOP")
    add(f"{work}: peak over the model", peak.over / 2**20, "MiB")
    complete = repeat(partial(encode, embedder, drawn), bench.device, setting.seconds, warm=False)
    add(f"{work}: with the preparation", count / complete, "items/s")


def run_rivals(bench: Bench) -> None:
    """Record how many times as fast as the others ours is, on the device and with the preparation."""
    embedder = make_embedder(bench.setting.shape, torch.bfloat16, bench.device)
    theirs = _sentence_transformers(bench, embedder)
    for work, count in bench.setting.compared.items():
        compare(bench, embedder, theirs, work, count)


def compare(bench: Bench, embedder: Embedder, theirs: Any, work: str, count: int) -> None:
    """Record one work by all schemes, which take turns; `theirs` is sentence-transformers, None where it is missing."""
    setting = bench.setting
    items, role = drawn = draw(work, count, setting.side)
    size = setting.samples[work]
    reference = Reference(embedder.backbone, embedder.build.prompt, size)
    batches = [items[start : start + size] for start in range(0, count, size)]
    prepared = prepare(embedder, work, drawn, setting.workers)
    inputs = in_processes(lambda batch: reference.prepare(batch, role), batches, setting.workers)
    on_device: dict[str, Callable[[], Any]] = {
        OURS: partial(embed_prepared, embedder, prepared),
        REFERENCE: partial(_published, reference, inputs),
    }
    schemes: dict[str, Callable[[], Any]] = {
        OURS: partial(encode, embedder, drawn),
        REFERENCE: partial(reference.encode, items, role),
    }
    if theirs:
        theirs = replace(theirs, chunk=size)
        on_device[RIVAL] = partial(theirs.embed, [theirs.features(batch, role) for batch in batches])
        schemes[RIVAL] = partial(theirs.encode, items, role)
    vectors = {name: scheme().float() for name, scheme in on_device.items()}
    for name in list(on_device)[1:]:
        least = torch.nn.functional.cosine_similarity(vectors[OURS], vectors[name]).min().item()
        bench.recorder.add(f"{work}: least cosine of ours to {name}", least, at_least=COSINE)
    seconds = take_turns(on_device, bench.device, setting.seconds)
    _record(bench, f"{work}, on the device", seconds, count, bench.on_card(SPEEDUP))
    _record(bench, f"{work}, with the preparation", take_turns(schemes, bench.device, 0, warm=False), count, None)


def _published(reference: Reference, batches: Sequence[Inputs]) -> Tensor:
    with torch.no_grad():
        return torch.cat([reference.embed(batch) for batch in batches])


def _sentence_transformers(bench: Bench, embedder: Embedder) -> Any:
    """Return the library around the same model; None, with a line, where it is missing or does not take it."""
    try:
        from sentence_rival import SentenceTransformers  # noqa: PLC0415 - it may be missing, or of another version

        return SentenceTransformers.around(embedder.backbone, embedder.build.prompt, 1)
    except Exception as error:
        bench.recorder.fail(error, f"{RIVAL} does not run here")
        return None


def _record(bench: Bench, name: str, seconds: dict[str, list[float]], count: int, goal: float | None) -> None:
    for scheme, taken in seconds.items():
        bench.recorder.add(f"{name}: {scheme}", count / sorted(taken)[len(taken) // 2], "items/s")
        if scheme != OURS:
            times = over(taken, seconds[OURS])
            bench.recorder.add(f"{name}: ours over {scheme}", times, "times as fast", at_least=goal)
