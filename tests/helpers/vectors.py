"""Vectors and tasks whose embeddings are known."""

import numpy as np
import torch
from conftest import Fake

from gen2embed import Item
from gen2embed.types import RankingTask


def unit(seed, count, size=24, dtype=np.float32):
    vectors = np.random.default_rng(seed).normal(size=(count, size))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(dtype)


class Given(Fake):
    """Embeds each text as the vector that it spells."""

    def __init__(self):
        self.fingerprint = {"model": "given"}

    def embed(self, items, role):
        return torch.tensor([[float(x) for x in item.texts[0].split()] for item in items])


def task(name, group, rng, queries=40, size=5, width=3):
    vectors = [Item.create(" ".join(map(str, rng.integers(-1, 2, size=width)))) for _ in range(queries + 12)]
    choices = tuple(tuple(rng.permutation(12)[:size].tolist()) for _ in range(queries))
    relevance = tuple((1.0, *[0.0] * (size - 1)) for _ in range(queries))
    return RankingTask(name, group, tuple(vectors[:queries]), tuple(vectors[queries:]), choices, relevance)
