"""What a training step need not do twice; each is taken where the gradient stays the same, and can be switched off.

    share         equal items, and what the samples of a packed row begin alike, are embedded once: without dropout
    vision_once   both passes over a chunk use the same features of its pictures: while the vision tower is frozen
    norms_once    DoRA's weight norms are worked out in the first pass alone
    keep_graphs   the graphs of as many chunks as memory has room for are kept, so that these are embedded once

Under ZeRO 3, ranks share the weights, and all of them must run the same modules in the same order. What they have in
common does not decide that, so there the norms alone are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from peft.tuners.lora.dora import DoraLinearLayer

from gen2embed.data.datamodules import Collate
from gen2embed.encoder.backbone import Backbone, has_dropout
from gen2embed.encoder.embedder import Embedder
from gen2embed.memory import free_bytes, graph_bytes, readable, state_bytes
from gen2embed.types import Pair, Shortcuts

ROOM = 0.5  # of the free memory, for graphs


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
    """What some pairs of a batch take. graph: bytes of the largest chunk's."""

    pairs: int
    chunks: int
    graph: int


def sample_chunks(embedder: Embedder, collate: Collate, pairs: Sequence[Pair]) -> Sampled:
    """Look at how `pairs` are embedded in training, with graphs."""
    batch = collate(pairs)
    parameters = list(embedder.backbone.full.parameters())
    embedder.backbone.full.train()
    kinds = {chunk.pictured: chunk for chunk in reversed(batch.chunks)}.values()  # the first of each
    graphs = [graph_bytes(partial(embedder.embed_chunk, chunk, batch.pictures), parameters) for chunk in kinds]
    embedder.backbone.full.eval()
    return Sampled(len(pairs), len(batch.chunks), max(graphs))


def keep(wanted: int | None, sampled: Sampled, backbone: Backbone, devices: int) -> tuple[int, str]:
    """Of how many chunks the graphs are kept, and why, in words. devices: of this machine, that train."""
    if wanted is not None:
        return wanted, f"of {wanted} chunks, as chosen"
    sharing = devices if backbone.device.type == "cpu" else 1
    _, state = state_bytes(backbone.full.parameters())
    room = max(0, int(ROOM * free_bytes(backbone.device) / sharing) - state)
    count = room // max(1, sampled.graph)
    return count, f"of up to {count:,} chunks: there is room for {readable(room)}"
