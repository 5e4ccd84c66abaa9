"""The vision tower by itself: each distinct picture once, what it made of it handed to the text layers."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gen2embed.encoding.batch import Inputs, moved

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CPU_ELEMENTS, GPU_ELEMENTS = 2**20, 2**24  # of pictures' inputs that go through the tower at a time


@dataclass(frozen=True)
class Features:
    """What the text layers get of one picture, in the shape in which the family joins that of several.

    deep: what Qwen3-VL adds within its first layers.
    """

    pooled: Tensor
    deep: tuple[Tensor, ...] = ()

    @property
    def nbytes(self) -> int:
        return self.pooled.nbytes + sum(tensor.nbytes for tensor in self.deep)


@dataclass
class FeatureCache:
    """Features of the pictures that were used last, by digest, of at most so many bytes."""

    capacity: int
    _kept: OrderedDict[tuple[str, str], Features] = field(default_factory=OrderedDict)
    _held: int = 0

    def get(self, digest: str) -> Features | None:
        key = _now(digest)
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

    def add(self, digest: str, features: Features) -> None:
        self._kept[_now(digest)] = features
        self._held += features.nbytes
        while self._held > self.capacity:
            self._held -= self._kept.popitem(last=False)[1].nbytes


def _now(digest: str) -> tuple[str, str]:
    """Autocast makes other features."""
    types = [str(torch.get_autocast_dtype(kind)) for kind in ("cpu", "cuda") if torch.is_autocast_enabled(kind)]
    return digest, " ".join(types)


def run(model: PreTrainedModel, pictures: Sequence[Inputs]) -> list[Features]:
    """The features of pictures, as `model.get_image_features` makes them; those of like shapes together."""
    found: dict[int, Features] = {}
    for its in _together(pictures, GPU_ELEMENTS if model.device.type == "cuda" else CPU_ELEMENTS):
        joined = {name: torch.cat([pictures[at][name] for at in its]) for name in pictures[its[0]]}
        out = model.get_image_features(**moved(joined, model.device, model.dtype), return_dict=True)
        pooled = out.pooler_output
        if isinstance(pooled, Tensor):  # of all parts of all pictures
            pooled = pooled.split(len(pooled) // len(its))
        deep = zip(*(out.get("deepstack_features") or [[()] * len(its)]), strict=True)
        for at, features, further in zip(its, pooled, deep, strict=True):
            found[at] = Features(features, tuple(tensor for tensor in further if isinstance(tensor, Tensor)))
    return [found[at] for at in range(len(pictures))]


def _together(pictures: Sequence[Inputs], elements: int) -> Iterator[list[int]]:
    """Indices of pictures whose inputs can be joined, and that have at most so many elements, but for a single one."""

    def shape(at: int) -> tuple[Any, ...]:
        return tuple((name, tensor.shape[1:]) for name, tensor in sorted(pictures[at].items()))

    for _, its in groupby(sorted(range(len(pictures)), key=shape), key=shape):
        group: list[int] = []
        held = 0
        for at in its:
            new = sum(tensor.numel() for tensor in pictures[at].values())
            if group and held + new > elements:
                yield group
                group, held = [], 0
            group.append(at)
            held += new
        yield group


def join(features: Sequence[Features]) -> dict[str, Any]:
    """What the base model's forward takes, so that these stand for the image tokens of a row, in order."""
    if not features:
        return {}
    # a model that runs has imported these; who merely imports the embedder does without
    from transformers.modeling_outputs import BaseModelOutputWithPooling  # noqa: PLC0415

    pooled: Any = tuple(its.pooled for its in features)
    if features[0].pooled.ndim == 3:
        return {"image": BaseModelOutputWithPooling(pooler_output=torch.cat(pooled))}
    if features[0].deep:
        from transformers.models.qwen3_vl.modeling_qwen3_vl import (  # noqa: PLC0415
            BaseModelOutputWithDeepstackFeatures,
        )

        deep = [tuple(layer) for layer in zip(*(its.deep for its in features), strict=True)]
        return {"image": BaseModelOutputWithDeepstackFeatures(pooler_output=pooled, deepstack_features=deep)}
    return {"image": BaseModelOutputWithPooling(pooler_output=pooled)}
