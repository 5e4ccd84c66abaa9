"""Row 3: the cached gradient against that of the whole batch in one graph."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING

import torch
from ours import ALL, make_step
from rivals import gradient_error, gradients, loss_of
from torch import Tensor
from yardstick import draw_pairs

from gen2embed import Embedder
from gen2embed.types import Pair
from gpu_rows.bench import adapt, make_embedder, set_dropout
from gpu_rows.clock import exact_float32

if TYPE_CHECKING:
    from gpu_rows.bench import Bench

Gradients = dict[str, Tensor]
Around = Callable[[], AbstractContextManager[object]]
ERROR, COSINE = 1e-5, 0.999  # goals
FURTHER = 1.2  # times the whole batch's own distance in bfloat16: roundings fall otherwise
CHUNKS = 6  # that the pairs' tokens make, about


def mixed(device: torch.device) -> AbstractContextManager[object]:
    """Return what trainer.precision=bf16-mixed puts around a step.

    Without the cache, as Lightning has it: a weight that was cast without a graph, in the first pass, would be taken in
    the second, and get no gradient.
    """
    return torch.autocast(device.type, torch.bfloat16, cache_enabled=False)


def reduce_gradients(
    embedder: Embedder, pairs: Sequence[Pair], around: Callable[[], AbstractContextManager[object]]
) -> Gradients:
    """Return the gradient of the batch in one graph, each item embedded alone and without packing: the truth."""
    with around():
        queries = torch.cat([embedder.embed([pair.query], "query") for pair in pairs])
        candidates = torch.cat([embedder.embed([pair.positive], "candidate") for pair in pairs])
    loss_of(queries, candidates).backward()
    return gradients(embedder.backbone.full)


def graph_gradient(embedder: Embedder, pairs: Sequence[Pair]) -> Gradients:
    """Return the gradient of the batch in one graph, of the cached step's chunks."""
    collate, _ = make_step(embedder, 0, tokens=_tokens(embedder, pairs))
    batch = collate(pairs)
    rows = torch.cat([embedder.embed_chunk(chunk, batch.pictures) for chunk in batch.chunks])
    loss_of(*rows[batch.order.to(rows.device)].chunk(2)).backward()
    return gradients(embedder.backbone.full)


def cached_gradient(embedder: Embedder, pairs: Sequence[Pair], keep: int, around: Around) -> tuple[Gradients, int]:
    """Return the gradient of the cached step, and of how many chunks."""
    collate, step = make_step(embedder, keep, tokens=_tokens(embedder, pairs))
    batch = collate(pairs)
    torch.manual_seed(0)
    with around():
        step(batch)
    return gradients(embedder.backbone.full), len(batch.chunks)


def _tokens(embedder: Embedder, pairs: Sequence[Pair]) -> int:
    """Return the tokens of a chunk, so that there are several of them."""
    each = len(embedder.build.token_ids(pairs[0].query, "query"))
    return max(each, each * len(pairs) // CHUNKS)


def distance(first: Gradients, second: Gradients) -> float:
    """Return the relative difference of two gradients, each as one vector."""
    apart = sum(float((first[name].double() - gradient.double()).square().sum()) for name, gradient in second.items())
    return math.sqrt(apart / sum(float(gradient.double().square().sum()) for gradient in second.values()))


def cosine(first: Gradients, second: Gradients) -> float:
    """Return the cosine of two gradients, each as one vector."""
    flat, of_other = (
        torch.cat([gradients[name].double().flatten() for name in second]) for gradients in (first, second)
    )
    return torch.nn.functional.cosine_similarity(flat, of_other, dim=0).item()


def run(bench: Bench) -> None:
    """Record errors and cosines, and whether dropout is replayed."""
    embedder = adapt(make_embedder(bench.setting.shallow, torch.float32, bench.device), 0.0)
    pairs = draw_pairs("pictures", bench.setting.checked, bench.setting.side)
    with exact_float32():
        truth = reduce_gradients(embedder, pairs, nullcontext)
        in_graph = graph_gradient(embedder, pairs)
        cached, chunks = cached_gradient(embedder, pairs, 0, nullcontext)
    add = bench.recorder.add
    add("chunks", chunks)
    for name, reference in (("the same chunks in one graph", in_graph), ("one graph, item by item", truth)):
        add(f"float32, against {name}: relative error of the gradient", distance(cached, reference), at_most=ERROR)
        add(f"float32, against {name}: largest of a parameter's", gradient_error(cached, reference))

    around = partial(mixed, bench.device)
    own = reduce_gradients(embedder, pairs, around)
    cached, _ = cached_gradient(embedder, pairs, 0, around)
    add("bf16-mixed: cosine of the cached gradient to float32's", cosine(cached, truth), at_least=COSINE)
    add("bf16-mixed: the same of the whole batch", cosine(own, truth))
    further = distance(cached, truth) / distance(own, truth)
    add("bf16-mixed: distance from float32, over that of the whole batch", further, at_most=FURTHER)
    set_dropout(embedder.backbone.full, 0.1)
    check_replay(bench, embedder, pairs)


def check_replay(bench: Bench, embedder: Embedder, pairs: Sequence[Pair]) -> None:
    """Record whether a second pass draws the dropout of the first: the bits of a step that keeps all graphs."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        for name, around in (("float32", exact_float32), ("bf16-mixed", partial(mixed, bench.device))):
            kept, again = (cached_gradient(embedder, pairs, ALL, around)[0] for _ in range(2))
            replayed, _ = cached_gradient(embedder, pairs, 0, around)
            same = all(torch.equal(kept[key], again[key]) for key in kept)
            bench.recorder.add(f"{name}, dropout 0.1: the same step twice has the same bits", same)
            equal = all(torch.equal(kept[key], replayed[key]) for key in kept)
            bench.recorder.add(f"{name}, dropout 0.1: replayed to the bits of kept graphs", equal, expected=True)
            bench.recorder.add(f"{name}, dropout 0.1: relative error of the replay", distance(replayed, kept))
    finally:
        torch.use_deterministic_algorithms(deterministic)
