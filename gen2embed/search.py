"""Exact nearest neighbours by inner product, in blocks of queries."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

BLOCK = 1024  # queries compared at a time


def nearest(
    queries: Float[np.ndarray, "n d"], candidates: Float[np.ndarray, "m d"], count: int
) -> Int[np.ndarray, "n k"]:
    """Indices of the `count` candidates of largest inner product, most similar first, equal ones by index.

    k is the smaller of `count` and m.
    """
    count = min(count, len(candidates))
    found = np.empty((len(queries), count), np.int64)
    for start in range(0, len(queries), BLOCK):
        similarities = queries[start : start + BLOCK] @ candidates.T
        bounds = np.partition(similarities, -count, axis=1)[:, -count]
        for row, (scores, bound) in enumerate(zip(similarities, bounds, strict=True), start):
            within = np.flatnonzero(scores >= bound)
            found[row] = within[np.argsort(-scores[within], kind="stable")][:count]
    return found
