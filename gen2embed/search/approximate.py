"""Approximate neighbours, for more candidates than an exact search can compare: an inverted file of faiss.

The m candidates lie in about 4 sqrt(m) cells around centroids, and a query is compared with those in the nearest
`probes` cells. The neighbours are ranked by the exact search's float64 scores.
"""

from __future__ import annotations

import importlib
import math
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from gen2embed.search.exact import Exact, Search, check_vectors
from gen2embed.search.products import exact_scores
from gen2embed.utils.errors import UserError
from gen2embed.utils.files import put_in_place, temporary_name
from gen2embed.utils.log import progress
from gen2embed.utils.rank_group import RankGroup

BLOCK = 65536  # candidates added to the index, and queries searched, at a time
PER_CELL = 64  # candidates that a centroid is trained on


class Approximate:
    """An approximate search among candidates. Queries with too few neighbours in their cells are searched exactly.

    Args:
        candidates: Unit vectors.
        search: The settings.
        path: The file that `build_index` of rank 0 writes. None: the index is built for this process alone.
        ranks: The ranks that share the index.
    """

    def __init__(
        self, candidates: Float[np.ndarray, "m d"], search: Search, path: Path | None, ranks: RankGroup
    ) -> None:
        self.candidates, self.search = candidates, search
        self._exact: Exact | None = None
        if path is not None:
            ranks.wait([path])
        self._index = _build(candidates) if path is None else _faiss().read_index(str(path))

    def __call__(self, queries: Float[np.ndarray, "n d"], count: int) -> Int[np.ndarray, "n k"]:
        """Return about the `count` candidates nearest to each query, ranked as the exact search ranks them."""
        self._index.nprobe = min(self.search.probes, self._index.nlist)
        neighbours = np.empty((len(queries), count), np.int64)
        for start in range(0, len(queries), BLOCK):
            block = np.array(queries[start : start + BLOCK], np.float32)
            neighbours[start : start + BLOCK] = self._index.search(block, count)[1]
        short = (neighbours < 0).any(axis=1)
        if short.any():
            self._exact = self._exact or Exact(self.candidates, self.search)
            neighbours[short] = self._exact(queries[short], count)
        for row in np.flatnonzero(~short):
            indices = neighbours[row]
            scores = exact_scores(queries[row], self.candidates[indices])
            neighbours[row] = indices[np.lexsort((indices, -scores))]
        return neighbours


def build_index(candidates: Float[np.ndarray, "m d"], path: Path) -> None:
    """Write the index of some candidates to `path`, unless it is there."""
    if not path.is_file():
        unfinished = temporary_name(path)
        try:
            _faiss().write_index(_build(candidates), str(unfinished))
            put_in_place(unfinished, path)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise


def _build(candidates: np.ndarray) -> Any:
    faiss = _faiss()
    check_vectors(candidates, "candidates")
    count, width = candidates.shape
    cells = max(1, min(round(4 * math.sqrt(count)), count // PER_CELL))
    index = faiss.index_factory(width, f"IVF{cells},SQfp16", faiss.METRIC_INNER_PRODUCT)
    sample = np.unique(np.linspace(0, count - 1, min(count, PER_CELL * cells)).astype(int))
    with progress(f"training an index of {cells:,} cells", count) as advance:
        index.train(np.array(candidates[sample], np.float32))
        advance(0, "indexing candidates")
        for start in range(0, count, BLOCK):
            block = np.array(candidates[start : start + BLOCK], np.float32)
            index.add(block)
            advance(len(block))
    return index


def _faiss() -> Any:
    try:
        return importlib.import_module("faiss")
    except ImportError as error:
        raise UserError(
            "an approximate search needs faiss, which is not installed: pip install 'gen2embed[approximate]', or "
            "search exactly (search.approximate_above=null)"
        ) from error
