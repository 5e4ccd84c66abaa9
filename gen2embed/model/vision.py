"""Run the vision tower by itself, once for each distinct picture, and hand its features to the text layers."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gen2embed.encoding.batch import Inputs, to_device

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CPU_ELEMENTS, GPU_ELEMENTS = 2**20, 2**24  # elements of pictures' inputs in one pass of the tower


@dataclass(frozen=True)
class Features:
    """What the text layers get of one picture.

    Args:
        pooled: The features of its image tokens, in the shape in which the family joins those of several pictures.
        deep: What Qwen3-VL adds within its first layers.
    """

    pooled: Tensor
    deep: tuple[Tensor, ...] = ()

    @property
    def nbytes(self) -> int:
        return self.pooled.nbytes + sum(tensor.nbytes for tensor in self.deep)


@dataclass
class FeatureCache:
    """Features of the pictures that were used last, by digest; at most `capacity` bytes."""

    capacity: int
    _features: OrderedDict[tuple[str, str], Features] = field(default_factory=OrderedDict)
    _size: int = 0

    def get(self, digest: str) -> Features | None:
        """Return the features of a picture; None if they are not kept."""
        key = _key(digest)
        if key in self._features:
            self._features.move_to_end(key)
        return self._features.get(key)

    def add(self, digest: str, features: Features) -> None:
        """Keep the features of a picture, and drop the oldest ones if there are too many."""
        self._features[_key(digest)] = features
        self._size += features.nbytes
        while self._size > self.capacity:
            self._size -= self._features.popitem(last=False)[1].nbytes


def _key(digest: str) -> tuple[str, str]:
    """Return the key of a picture's features, which depend on autocast."""
    types = [str(torch.get_autocast_dtype(kind)) for kind in ("cpu", "cuda") if torch.is_autocast_enabled(kind)]
    return digest, " ".join(types)


def compute_features(
    model: PreTrainedModel, pictures: Mapping[str, Inputs], cache: FeatureCache | None
) -> dict[str, Features]:
    """Return the features of pictures, by digest.

    Args:
        model: The base model.
        pictures: The vision tower's inputs of each picture, by digest.
        cache: The features of a frozen tower, looked up and added to; None if the tower is trained.
    """
    if cache is None:
        return dict(zip(pictures, _run_tower(model, list(pictures.values())), strict=True))
    cached = {digest: features for digest in pictures if (features := cache.get(digest))}
    missing = [digest for digest in pictures if digest not in cached]
    with torch.no_grad():
        computed = dict(zip(missing, _run_tower(model, [pictures[digest] for digest in missing]), strict=True))
    for digest, features in computed.items():
        cache.add(digest, features)
    return {**cached, **computed}


def _run_tower(model: PreTrainedModel, pictures: Sequence[Inputs]) -> list[Features]:
    """Return the features of pictures, by `model.get_image_features`; pictures of equal shapes share a pass."""
    features: dict[int, Features] = {}
    for group in _groups(pictures, GPU_ELEMENTS if model.device.type == "cuda" else CPU_ELEMENTS):
        joined = {name: torch.cat([pictures[index][name] for index in group]) for name in pictures[group[0]]}
        out = model.get_image_features(**to_device(joined, model.device, model.dtype), return_dict=True)
        pooled = out.pooler_output
        if isinstance(pooled, Tensor):  # of all parts of all pictures
            pooled = pooled.split(len(pooled) // len(group))
        deep = zip(*(out.get("deepstack_features") or [[()] * len(group)]), strict=True)
        for index, tensor, layers in zip(group, pooled, deep, strict=True):
            features[index] = Features(tensor, tuple(layer for layer in layers if isinstance(layer, Tensor)))
    return [features[index] for index in range(len(pictures))]


def _groups(pictures: Sequence[Inputs], elements: int) -> Iterator[list[int]]:
    """Yield the indices of pictures of equal shapes, in groups of at most `elements` elements or of one picture."""

    def shape(index: int) -> tuple[Any, ...]:
        return tuple((name, tensor.shape[1:]) for name, tensor in sorted(pictures[index].items()))

    for _, indices in groupby(sorted(range(len(pictures)), key=shape), key=shape):
        group: list[int] = []
        size = 0
        for index in indices:
            added = sum(tensor.numel() for tensor in pictures[index].values())
            if group and size + added > elements:
                yield group
                group, size = [], 0
            group.append(index)
            size += added
        yield group


def join_features(features: Sequence[Features]) -> dict[str, Any]:
    """Return the argument of the base model's forward by which features stand for a row's image tokens, in order."""
    if not features:
        return {}
    # imported with every model, and not needed to import the embedder
    from transformers.modeling_outputs import BaseModelOutputWithPooling  # noqa: PLC0415

    pooled: Any = tuple(picture.pooled for picture in features)
    if features[0].pooled.ndim == 3:
        return {"image": BaseModelOutputWithPooling(pooler_output=torch.cat(pooled))}
    if features[0].deep:
        from transformers.models.qwen3_vl.modeling_qwen3_vl import (  # noqa: PLC0415
            BaseModelOutputWithDeepstackFeatures,
        )

        deep = [tuple(layer) for layer in zip(*(picture.deep for picture in features), strict=True)]
        return {"image": BaseModelOutputWithDeepstackFeatures(pooler_output=pooled, deepstack_features=deep)}
    return {"image": BaseModelOutputWithPooling(pooler_output=pooled)}
