"""Translate saved configurations of earlier versions to the names of today, and add the groups that they lack.

A run folder, a manifest or `run.json` of an earlier version is read through `translate`. A command line is not: there
an old name is an error that gives the new one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gen2embed.config.values import join_key

TARGETS = {  # of `_target_`
    "gen2embed.callbacks.SaveSteps": "gen2embed.training.callbacks.SaveSteps",
    "gen2embed.callbacks.Speed": "gen2embed.training.callbacks.Speed",
    "gen2embed.checkpoint.Checkpoints": "gen2embed.training.checkpoint.Checkpoints",
    "gen2embed.compression.Compression": "gen2embed.encoding.compression.Compression",
    "gen2embed.data.world.World": "gen2embed.world.data.World",
    "gen2embed.data.world.read_world": "gen2embed.world.data.read_world",
    "gen2embed.encoder.adapter.Full": "gen2embed.model.adapter.Full",
    "gen2embed.encoder.adapter.Lora": "gen2embed.model.adapter.Lora",
    "gen2embed.encoder.engine.Engine": "gen2embed.encoding.engine.Engine",
    "gen2embed.images.Resolution": "gen2embed.model.resolution.Resolution",
    "gen2embed.logger.CSVLogger": "gen2embed.training.logger.CSVLogger",
    "gen2embed.losses.InfoNCE": "gen2embed.training.losses.InfoNCE",
    "gen2embed.miners.b3.B3": "gen2embed.mining.b3.B3",
    "gen2embed.miners.saha.SaHa": "gen2embed.mining.saha.SaHa",
    "gen2embed.miners.saha.SaHaPaper": "gen2embed.mining.saha.SaHaPaper",
    "gen2embed.miners.saha.TopK": "gen2embed.mining.saha.TopK",
    "gen2embed.miners.shuffled.Random": "gen2embed.mining.random.Random",
    "gen2embed.prompts.Prompt": "gen2embed.model.prompts.Prompt",
    "gen2embed.search.Search": "gen2embed.search.exact.Search",
    "gen2embed.sync.Replicated": "gen2embed.training.strategies.Replicated",
    "gen2embed.types.Shortcuts": "gen2embed.training.shortcuts.Shortcuts",
    "gen2embed.zero.Zero": "gen2embed.training.zero.Zero",
}
KEYS = {  # of settings, dotted
    "shortcuts.keep_graphs": "shortcuts.retain_graphs",
    "shortcuts.norms_once": "shortcuts.cache_dora_norms",
    "shortcuts.share": "shortcuts.deduplicate",
    "shortcuts.vision_once": "shortcuts.cache_vision",
}
ADDED = {  # groups that configurations with a model did not have, and what runs without them did
    "pooling": {"_target_": "gen2embed.model.pooling.LastToken"},
}


def translate(saved: Any, path: str = "") -> Any:
    """Return a saved configuration, or a part of one, under the names of today.

    Args:
        saved: Plain values.
        path: Their dotted key in the configuration.
    """
    if isinstance(saved, list):
        return [translate(value, path) for value in saved]
    if not isinstance(saved, Mapping):
        return saved
    translated: dict[str, Any] = dict(ADDED) if not path and "model" in saved else {}
    for key, value in saved.items():
        dotted = join_key(path, key)
        name = KEYS[dotted].rpartition(".")[2] if dotted in KEYS else key
        translated[name] = TARGETS.get(value, value) if key == "_target_" else translate(value, dotted)
    return translated
