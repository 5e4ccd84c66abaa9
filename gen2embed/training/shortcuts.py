"""What a training step need not do twice; each is taken where the gradient stays the same, and can be switched off.

    share         equal items, and what the samples of a packed row begin alike, are embedded once: without dropout
    vision_once   both passes over a chunk use the same features of its pictures: while the vision tower is frozen
    norms_once    DoRA's weight norms are worked out in the first pass alone
    keep_graphs   the graphs of as many chunks as memory has room for are kept, so that these are embedded once

Under ZeRO 3, ranks share the weights, and all of them must run the same modules in the same order. What they have in
common does not decide that, so there the norms alone are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial

import torch
from peft.tuners.lora.dora import DoraLinearLayer

from gen2embed.encoding.batch import Chunk
from gen2embed.model.backbone import has_dropout
from gen2embed.model.dora import norms_once
from gen2embed.model.embedder import Embedder
from gen2embed.training.datamodule import Collate
from gen2embed.training.gradcache import unchanged_random_state
from gen2embed.training.memory import ChunkMemory, LiveBytes, StepMemory, measure_chunk, predict
from gen2embed.types import Pair
from gen2embed.utils.choices import ROLES, Role  # noqa: F401  (others take both, and the errors, from here)
from gen2embed.utils.errors import UserError, did_you_mean, first_line  # noqa: F401
from gen2embed.utils.memory import free_bytes, readable

ROOM = 0.5  # of the memory that a step leaves free, for graphs


def take(wanted: Shortcuts, embedder: Embedder, *, lockstep: bool) -> tuple[Shortcuts, dict[str, str]]:
    """Of the wanted ones those that keep the gradient as it is; of each, why, in words. Graphs are for `keep` to say.

    lockstep: the ranks must run the same modules in the same order.
    """
    backbone = embedder.backbone
    dora = any(isinstance(module, DoraLinearLayer) for module in backbone.full.modules())
    config = backbone.full.config
    dropout = has_dropout(backbone.full.modules(), config, config.get_text_config())
    against = {
        "share": "there is dropout, which would be shared, too" if dropout else None,
        "vision_once": None if backbone.frozen_vision else "the vision tower is trained, or has dropout",
        "norms_once": None if dora else "there is no DoRA",
    }
    if not embedder.packs:
        against["vision_once"] = f"rows are padded: {embedder.why_padded}"
    if lockstep:
        against |= dict.fromkeys(("share", "vision_once"), "the ranks share the weights")
    said = {name: f"no: {reason}" if reason else "yes" for name, reason in against.items()}
    said |= {name: "no: switched off" for name in against if not getattr(wanted, name)}
    taken = {name: said[name] == "yes" for name in against}
    return replace(wanted, **taken, keep_graphs=0 if lockstep else wanted.keep_graphs), said


@dataclass(frozen=True)
class Sampled:
    """What some pairs of a batch take.

    chunks: of them, of which the largest has so many tokens. kinds: memory of the largest chunk of each kind.
    vectors, features: bytes of all embeddings, and of what the vision tower makes of all pictures, where that is done
    once. others: the most bytes that a step holds before its chunks have graphs.
    """

    pairs: int
    chunks: int
    tokens: int
    kinds: tuple[ChunkMemory, ...]
    vectors: int
    features: int = 0
    others: int = 0


def sample_chunks(
    embedder: Embedder,
    collate: Collate,
    pairs: Sequence[Pair],
    shortcuts: Shortcuts,
    precision: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Sampled:
    """Measure how `pairs` are embedded in a training step, and back, without ever holding more than that step.

    shortcuts: those that the step takes. precision: what Lightning runs a step in, such as autocast.
    """
    batch, full = collate(pairs), embedder.backbone.full
    largest: dict[bool, Chunk] = {}
    for chunk in sorted(batch.chunks, key=_tokens):
        largest[chunk.pictured] = chunk
    once = norms_once(full) if shortcuts.norms_once else nullcontext()
    features, made, vision = None, 0, 0
    full.train()
    try:
        with unchanged_random_state(), precision(), once:
            if shortcuts.vision_once:
                with LiveBytes() as live:
                    features = embedder.vision_features(batch.pictures)
                made = sum(its.nbytes for its in features.values())
                vision = max(0, live.peak - made)
                batch.pictures.clear()
            embed = partial(embedder.embed_chunk, pictures=batch.pictures, features=features)
            with LiveBytes() as live, torch.no_grad():  # a step's first pass, which computes the norms
                embed(min(batch.chunks, key=_tokens))
            others = max(vision, live.peak)
            kinds = tuple(measure_chunk(partial(embed, chunk), full.parameters()) for chunk in largest.values())
    finally:
        full.eval()
    vectors = sum(chunk.rows for chunk in batch.chunks) * embedder.dim * torch.float32.itemsize
    return Sampled(len(pairs), len(batch.chunks), max(map(_tokens, batch.chunks)), kinds, vectors, made, others)


def _tokens(chunk: Chunk) -> int:
    return chunk.inputs["input_ids"].numel()


def predict_step(
    embedder: Embedder, sampled: Sampled, pairs: int, *, steps: int = 1, graphs: int = 0, ranks: int = 1, zero: int = 0
) -> StepMemory:
    """Return the memory that a rank needs for steps like the sampled pairs', by part.

    Args:
        embedder: with its adapter.
        sampled: some pairs of a batch (`sample_chunks`).
        pairs: of a batch, that this rank embeds.
        steps: after which the embedder's own store of features is as full as it gets.
        graphs: number of chunks whose graphs are kept.
        ranks: that train together.
        zero: DeepSpeed's stage; 0 where every rank has all.
    """
    share = pairs / sampled.pairs
    features = int(sampled.features * share)
    return predict(
        embedder.backbone.full.parameters(),
        sampled.kinds,
        vectors=int(sampled.vectors * share),
        features=max(features, min(embedder.feature_cache.capacity, features * steps)),
        others=sampled.others,
        graphs=graphs,
        ranks=ranks,
        zero=zero,
    )


def keep(
    wanted: int | None, needed: StepMemory, sampled: Sampled, device: torch.device, sharing: int
) -> tuple[int, str]:
    """Return of how many chunks the graphs are kept, and why, in words.

    Args:
        wanted: number of chunks; None is as many as memory has room for.
        needed: by a step that keeps none.
        sampled: whose graphs are as large as those to keep.
        device: where the model is.
        sharing: processes that train on this device's memory.
    """
    if wanted is not None:
        return wanted, f"of {wanted} chunks, as chosen"
    room = max(0, int(ROOM * (free_bytes(device) / sharing - (needed.total - needed.weights))))
    count = room // max(1, *(kind.graph for kind in sampled.kinds))
    return count, f"of up to {count:,} chunks: there is room for {readable(room)}"


@dataclass(frozen=True)
class Shortcuts:
    """What a training step need not do twice (`gen2embed.training.shortcuts`), as it is wanted, or taken.

    keep_graphs: of how many chunks; None is as many as there is memory for.
    """

    share: bool = True
    vision_once: bool = True
    norms_once: bool = True
    keep_graphs: int | None = None

    def __post_init__(self) -> None:
        if self.keep_graphs is not None and self.keep_graphs < 0:
            raise UserError(f"shortcuts.keep_graphs is a number of chunks, or null; got {self.keep_graphs}")


NO_SHORTCUTS = Shortcuts(share=False, vision_once=False, norms_once=False, keep_graphs=0)
