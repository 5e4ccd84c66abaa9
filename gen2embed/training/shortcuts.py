"""Work that a training step need not do twice. A shortcut is taken where it leaves the gradient as it is.

    deduplicate       equal items, and equal beginnings of packed rows, are embedded once: without dropout
    cache_vision      both passes over a chunk use the same features of its pictures: with a frozen vision tower
    cache_dora_norms  DoRA's weight norms are computed in the first pass alone
    retain_graphs     the graphs of as many chunks as fit into memory are retained, so that these are embedded once

Under ZeRO 3, ranks share the weights, and all of them must run the same modules in the same order. Which items are
equal differs between ranks, so that only DoRA's norms are cached there.
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
from gen2embed.model.dora import cached_norms
from gen2embed.model.embedder import Embedder
from gen2embed.training.datamodule import Collate
from gen2embed.training.gradcache import unchanged_random_state
from gen2embed.training.memory import ChunkMemory, LiveBytes, StepMemory, measure_chunk, predict
from gen2embed.types import Pair
from gen2embed.utils.errors import UserError
from gen2embed.utils.memory import free_bytes, readable

ROOM = 0.5  # share of the memory that a step leaves free, for graphs


@dataclass(frozen=True)
class Shortcuts:
    """Which shortcuts are wanted, or taken.

    Args:
        deduplicate: Whether equal items are embedded once.
        cache_vision: Whether the features of a step's pictures are cached for its second pass.
        cache_dora_norms: Whether DoRA's weight norms are cached for the second pass.
        retain_graphs: The number of chunks whose graphs are retained; None is as many as there is memory for.
    """

    deduplicate: bool = True
    cache_vision: bool = True
    cache_dora_norms: bool = True
    retain_graphs: int | None = None

    def __post_init__(self) -> None:
        """Raise `UserError` for a number of graphs that is none."""
        if self.retain_graphs is not None and self.retain_graphs < 0:
            raise UserError(f"shortcuts.retain_graphs is a number of chunks, or null; got {self.retain_graphs}")


NO_SHORTCUTS = Shortcuts(deduplicate=False, cache_vision=False, cache_dora_norms=False, retain_graphs=0)


def resolve(wanted: Shortcuts, embedder: Embedder, *, lockstep: bool) -> tuple[Shortcuts, dict[str, str]]:
    """Return those of the wanted shortcuts that leave the gradient as it is, and why, in words, for each.

    The number of graphs stays as it is wanted: `graphs_to_retain` decides it.

    Args:
        wanted: The shortcuts that the user wants.
        embedder: The embedder with its adapter.
        lockstep: Whether ranks must run the same modules in the same order.
    """
    backbone = embedder.backbone
    dora = any(isinstance(module, DoraLinearLayer) for module in backbone.full.modules())
    config = backbone.full.config
    dropout = has_dropout(backbone.full.modules(), config, config.get_text_config())
    obstacles = {
        "deduplicate": "there is dropout, which would be shared, too" if dropout else None,
        "cache_vision": None if backbone.frozen_vision else "the vision tower is trained, or has dropout",
        "cache_dora_norms": None if dora else "there is no DoRA",
    }
    if not embedder.packs:
        obstacles["cache_vision"] = f"rows are padded: {embedder.why_padded}"
    if lockstep:
        obstacles |= dict.fromkeys(("deduplicate", "cache_vision"), "the ranks share the weights")
    reasons = {name: f"no: {obstacle}" if obstacle else "yes" for name, obstacle in obstacles.items()}
    reasons |= {name: "no: switched off" for name in obstacles if not getattr(wanted, name)}
    taken = {name: reasons[name] == "yes" for name in obstacles}
    return replace(wanted, **taken, retain_graphs=0 if lockstep else wanted.retain_graphs), reasons


@dataclass(frozen=True)
class Sampled:
    """What some pairs of a batch take.

    Args:
        pairs: The number of pairs.
        chunks: The number of their chunks.
        tokens: The tokens of the largest chunk.
        kinds: The memory of the largest chunk of each kind, with pictures and without.
        vectors: The bytes of all embeddings.
        features: The bytes of the vision features of all pictures, if they are cached; else 0.
        others: The most bytes that a step holds before its chunks have graphs.
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
    """Measure what the pairs take in a training step, forward and backward; this never holds more than that step.

    Args:
        embedder: The embedder with its adapter.
        collate: Makes a batch of pairs.
        pairs: Pairs of a batch.
        shortcuts: The shortcuts that the step takes.
        precision: Returns the context that Lightning runs a step in, such as autocast.
    """
    batch, full = collate(pairs), embedder.backbone.full
    largest: dict[bool, Chunk] = {}
    for chunk in sorted(batch.chunks, key=_tokens):
        largest[chunk.pictured] = chunk
    norms = cached_norms(full) if shortcuts.cache_dora_norms else nullcontext()
    features, feature_bytes, vision = None, 0, 0
    full.train()
    try:
        with unchanged_random_state(), precision(), norms:
            if shortcuts.cache_vision:
                with LiveBytes() as live:
                    features = embedder.vision_features(batch.pictures)
                feature_bytes = sum(tensor.nbytes for tensor in features.values())
                vision = max(0, live.peak - feature_bytes)
                batch.pictures.clear()
            embed = partial(embedder.embed_chunk, pictures=batch.pictures, features=features)
            with LiveBytes() as live, torch.no_grad():  # a step's first pass, which computes the norms
                embed(min(batch.chunks, key=_tokens))
            others = max(vision, live.peak)
            kinds = tuple(measure_chunk(partial(embed, chunk), full.parameters()) for chunk in largest.values())
    finally:
        full.eval()
    vectors = sum(chunk.rows for chunk in batch.chunks) * embedder.dim * torch.float32.itemsize
    tokens = max(map(_tokens, batch.chunks))
    return Sampled(len(pairs), len(batch.chunks), tokens, kinds, vectors, feature_bytes, others)


def _tokens(chunk: Chunk) -> int:
    return chunk.inputs["input_ids"].numel()


def predict_step(
    embedder: Embedder, sampled: Sampled, pairs: int, *, steps: int = 1, graphs: int = 0, ranks: int = 1, zero: int = 0
) -> StepMemory:
    """Return the memory that a rank needs for steps like the sampled pairs', by part.

    Args:
        embedder: The embedder with its adapter.
        sampled: Some pairs of a batch (`sample_chunks`).
        pairs: The number of pairs of a batch that this rank embeds.
        steps: The number of steps of the training; the embedder's own cache of features grows with each.
        graphs: The number of chunks whose graphs are retained.
        ranks: The number of ranks that train together.
        zero: DeepSpeed's stage; 0 where every rank has all weights, gradients and state.
    """
    factor = pairs / sampled.pairs
    features = int(sampled.features * factor)
    return predict(
        embedder.backbone.full.parameters(),
        sampled.kinds,
        vectors=int(sampled.vectors * factor),
        features=max(features, min(embedder.feature_cache.capacity, features * steps)),
        others=sampled.others,
        graphs=graphs,
        ranks=ranks,
        zero=zero,
    )


def graphs_to_retain(
    wanted: int | None, needed: StepMemory, sampled: Sampled, device: torch.device, processes: int
) -> tuple[int, str]:
    """Return the number of chunks whose graphs are retained, and why, in words.

    Args:
        wanted: The number of chunks; None is as many as memory has room for.
        needed: The memory of a step that retains none.
        sampled: Chunks whose graphs are as large as those to retain.
        device: The device of the model.
        processes: The number of processes that train in this device's memory.
    """
    if wanted is not None:
        return wanted, f"of {wanted} chunks, as chosen"
    room = max(0, int(ROOM * (free_bytes(device) / processes - (needed.total - needed.weights))))
    count = room // max(1, *(kind.graph for kind in sampled.kinds))
    return count, f"of up to {count:,} chunks: there is room for {readable(room)}"
