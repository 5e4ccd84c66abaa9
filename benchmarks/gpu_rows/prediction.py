"""What train.py says, before its first step, that a step will hold, and of how many chunks it keeps the graphs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

from gen2embed import Embedder
from gen2embed.model.vision import FeatureCache
from gen2embed.training.datamodule import Collate
from gen2embed.training.shortcuts import Sampled, Shortcuts, graphs_to_retain, predict_step, resolve, sample_chunks
from gen2embed.types import Pair
from gpu_rows.recorder import free_memory


@dataclass(frozen=True)
class Forecast:
    """What some pairs of a batch take, from which that of more is told."""

    embedder: Embedder
    sampled: Sampled

    @classmethod
    def make(
        cls,
        embedder: Embedder,
        collate: Collate,
        pairs: Sequence[Pair],
        precision: Callable[[], AbstractContextManager[object]],
    ) -> Forecast:
        """Look at some pairs as train.py does; the model is in training mode afterwards, as before."""
        embedder = replace(embedder, feature_cache=FeatureCache(0))
        shortcuts, _ = resolve(Shortcuts(), embedder, lockstep=False)
        sampled = sample_chunks(embedder, collate, pairs, shortcuts, precision)
        embedder.backbone.full.train()
        return cls(embedder, sampled)

    def graphs(self, pairs: int) -> int:
        """Return of how many chunks train.py would keep the graphs in steps of so many pairs."""
        free_memory()
        needed = predict_step(self.embedder, self.sampled, pairs)
        return graphs_to_retain(None, needed, self.sampled, self.embedder.backbone.device, 1)[0]

    def peak(self, pairs: int, graphs: int) -> int:
        """Return the bytes that a step of so many pairs holds at its peak."""
        return predict_step(self.embedder, self.sampled, pairs, graphs=graphs).total
