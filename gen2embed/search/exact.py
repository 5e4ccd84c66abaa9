"""Exact nearest neighbours by inner product, in blocks, in memory that does not grow with the data.

    1. For a block of queries, compute float32 inner products with one block of candidates after another, and keep the
       best `count` + SPARE.
    2. A float32 inner product, summed in any order, is off by at most b = gamma(d) |q| |c| (Higham, Accuracy and
       Stability of Numerical Algorithms, section 3.1). Score those again that lie within 2 b of their neighbour in the
       ranking: first in float32 sums of `PARTS` products, so that gamma(d) becomes gamma(PARTS). Score those that are
       still within 2 b in float64, in one fixed order of summation.
    3. Rank a query with more than SPARE near-ties at the cut again: float64 inner products give its cut, and all
       candidates within the float64 bound of the cut are scored in the fixed order.

So the order is by float64 score, descending, then by index. It does not depend on the size of a block, the number of
threads, or the device.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from gen2embed.search.products import PARTS, error_bounds, exact_scores, short_sums
from gen2embed.utils.errors import UserError

SPARE = 64  # candidates beyond the cut that are kept for near-ties
CHECKED = 4096  # vectors looked at together for values that cannot be searched


@dataclass(frozen=True)
class Search:
    """How neighbours are searched.

    Args:
        memory_gib: The most memory that a search takes beside vectors and results, on the device as in main memory.
        device: A device of torch; "auto" is a GPU if there is one.
        block: How many queries, and candidates, are compared at a time. None derives both from `memory_gib`.
        store: The folder of results, which survive a kill and which ranks share. None keeps them in memory.
        shard_size: How many queries are searched between two writes to the store.
        approximate_above: The number of candidates beyond which a faiss index is searched. None always searches
            exactly.
        probes: How many cells of that index a query looks at.
        sample: How many queries the recall of that index is measured on.
    """

    memory_gib: float = 4.0
    device: str = "auto"
    block: int | None = None
    store: Path | None = None
    shard_size: int = 8192
    approximate_above: int | None = None
    probes: int = 64
    sample: int = 1000

    def __post_init__(self) -> None:
        if self.device != "auto":
            try:
                torch.device(self.device)
            except RuntimeError as error:
                raise UserError(f"search.device={self.device} is no device; choose one of auto, cpu, cuda") from error
        if self.memory_gib <= 0:
            raise UserError(f"search.memory_gib is above 0; got {self.memory_gib:g}")
        for name in ("block", "shard_size", "probes", "sample"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise UserError(f"search.{name} is at least 1; got {value}")
        if self.approximate_above is not None and self.approximate_above < 0:
            raise UserError(f"search.approximate_above is at least 0, or null for never; got {self.approximate_above}")

    def describe(self) -> dict[str, Any]:
        """Return the settings that change results."""
        if self.approximate_above is None:
            return {"exact": True}
        return {"exact": False, "approximate_above": self.approximate_above, "probes": self.probes}

    def blocks(self, width: int, count: int) -> tuple[int, int]:
        """Return how many queries and candidates of `width` elements are compared at a time."""
        if self.block is not None:
            return self.block, self.block
        budget = self.memory_gib * 2**30
        # half for scores, an eighth each for queries and their best scores, a quarter for candidates; 8 is float64's
        per_query = max(8 * width, 24 * (count + SPARE))
        queries = int(min(self.shard_size, math.sqrt(budget / 16), budget / 8 / per_query))
        candidates = int(min(budget / 16 / max(queries, 1), budget / 4 / (16 * width)))
        if min(queries, candidates) < 1:
            raise UserError(
                f"search.memory_gib={self.memory_gib:g} does not hold one vector of {width} elements and its {count} "
                "neighbours; raise it"
            )
        return queries, candidates


def nearest(
    queries: Float[np.ndarray, "n d"], candidates: Float[np.ndarray, "m d"], count: int
) -> Int[np.ndarray, "n k"]:
    """Return the indices of the `count` candidates of largest inner product, or of all, most similar first.

    Equal ones come in the order of their index.
    """
    check_vectors(queries, "queries")
    return Exact(candidates)(queries, count)


def check_vectors(vectors: Float[np.ndarray, "n d"], name: str) -> float:
    """Return the largest norm; raises `UserError` for a vector that is zero or not finite: it has no neighbours."""
    largest = 0.0
    for start in range(0, len(vectors), CHECKED):
        block = np.asarray(vectors[start : start + CHECKED], np.float32)
        norms = np.sqrt(np.einsum("nd,nd->n", block, block))  # no other array as large as the block
        for bad, fault in ((~np.isfinite(norms), "holds values that are not finite"), (norms == 0, "is zero")):
            if bad.any():
                raise UserError(
                    f"the embedding of row {start + int(bad.argmax())} of the {name} {fault}, and a neighbour of it "
                    "means nothing; check the model, or try model.dtype=float32, and remove the embedding store that "
                    "holds it"
                )
        largest = max(largest, float(norms.max()))
    return largest


def _near(scores: Float[np.ndarray, " p"], bound: float) -> Int[np.ndarray, " r"]:
    """Return which scores, of a descending list, lie within twice the bound of the one before or after."""
    close = np.zeros(len(scores) + 1, bool)
    close[1:-1] = scores[:-1] - scores[1:] <= 2 * bound
    return np.flatnonzero(close[1:] | close[:-1])


class Exact:
    """An exact search among candidates, which may be memory-mapped.

    Raises:
        UserError: A candidate is zero or not finite.
    """

    def __init__(self, candidates: Float[np.ndarray, "m d"], search: Search | None = None) -> None:
        self.candidates, self.search = candidates, search or Search()
        self.largest = check_vectors(candidates, "candidates")
        chosen = self.search.device
        self.device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if chosen == "auto" else chosen)
        self._loaded: tuple[torch.dtype, Tensor] | None = None

    def __call__(self, queries: Float[np.ndarray, "n d"], count: int) -> Int[np.ndarray, "n k"]:
        """Return the `count` candidates nearest to each query; the queries are finite and not zero."""
        if queries.shape[1] != self.candidates.shape[1]:
            raise UserError(
                f"queries of {queries.shape[1]} elements cannot be compared with candidates of "
                f"{self.candidates.shape[1]}; embed both with one model"
            )
        count = min(count, len(self.candidates))
        size, self._size = self.search.blocks(queries.shape[1], count)
        neighbours = np.empty((len(queries), count), np.int64)
        if not count:
            return neighbours
        with full_precision(), ThreadPoolExecutor(torch.get_num_threads()) as pool:
            for start in range(0, len(queries), size):
                block = np.array(queries[start : start + size])
                scores, indices, bounds = self._best(block, min(count + SPARE, len(self.candidates)), torch.float32)
                cuts = scores[:, count - 1] - 2 * bounds
                tied = (scores[:, -1] >= cuts) & (scores.shape[1] < len(self.candidates))
                rows = np.flatnonzero(~tied)
                tight = error_bounds(block, self.largest, PARTS, torch.float32)
                arguments = (block, scores, indices, bounds, tight, cuts)
                settled = pool.map(self._settle, *(values[rows] for values in arguments))
                for row, ranked in zip(rows, settled, strict=True):
                    neighbours[start + row] = ranked[:count]
                if tied.any():
                    neighbours[start + np.flatnonzero(tied)] = self._rank_tied(block[tied], count)
        return neighbours

    def _best(
        self, queries: np.ndarray, count: int, dtype: torch.dtype
    ) -> tuple[Float[np.ndarray, "n k"], Int[np.ndarray, "n k"], Float[np.ndarray, " n"]]:
        """Step 1: return the best scores in `dtype`, largest first, their candidates, and bounds of their errors."""
        vectors = torch.tensor(queries).to(self.device, dtype)
        best = torch.empty(len(queries), 0, dtype=dtype, device=self.device)
        best_of = torch.empty(len(queries), 0, dtype=torch.int64, device=self.device)  # the candidate of each score
        for start, block in self._blocks(dtype):
            scores, indices = (vectors @ block.T).topk(min(count, len(block)), dim=1)
            best, best_of = torch.cat([best, scores], 1), torch.cat([best_of, indices + start], 1)
            best, kept = best.topk(min(count, best.shape[1]), dim=1)
            best_of = best_of.gather(1, kept)
        return (
            best.double().cpu().numpy(),
            best_of.cpu().numpy(),
            error_bounds(queries, self.largest, queries.shape[1], dtype),
        )

    def _settle(
        self, query: np.ndarray, scores: np.ndarray, indices: np.ndarray, bound: float, tight: float, cut: float
    ) -> Int[np.ndarray, " p"]:
        """Step 2: return the candidates that can be above the cut, in order.

        `bound` is how much the scores can be off, `tight` how much `short_sums` can.
        """
        within = int(np.searchsorted(-scores, -cut, side="right"))
        scores, indices = scores[:within].copy(), indices[:within]
        near = _near(scores, bound)
        scores[near] = short_sums(query, self.candidates[indices[near]])
        order = np.argsort(-scores, kind="stable")
        scores, indices = scores[order], indices[order]
        near = _near(scores, tight)
        scores[near] = exact_scores(query, self.candidates[indices[near]])
        return indices[np.lexsort((indices, -scores))]

    def _rank_tied(self, queries: np.ndarray, count: int) -> Int[np.ndarray, "n k"]:
        """Step 3: return the nearest candidates of queries with many near-ties."""
        scores, _, bounds = self._best(queries, count, torch.float64)
        vectors = torch.tensor(queries).to(self.device, torch.float64)
        cuts = torch.from_numpy(scores[:, -1] - 2 * bounds).to(self.device)
        ranked = [(np.empty(0), np.empty(0, np.int64))] * len(queries)
        for start, block in self._blocks(torch.float64):
            hits = (vectors @ block.T >= cuts[:, None]).cpu().numpy()
            for row in np.flatnonzero(hits.any(axis=1)):
                columns = start + np.flatnonzero(hits[row])
                again = exact_scores(queries[row], self.candidates[columns])
                values, indices = np.append(ranked[row][0], again), np.append(ranked[row][1], columns)
                order = np.lexsort((indices, -values))[:count]
                ranked[row] = values[order], indices[order]
        return np.stack([indices for _, indices in ranked])

    def _blocks(self, dtype: torch.dtype) -> Iterator[tuple[int, Tensor]]:
        """Yield the start of each block of candidates, and the block on the device; a single block stays there."""
        if self._loaded is not None and self._loaded[0] == dtype:
            yield 0, self._loaded[1]
            return
        self._loaded = None
        for start in range(0, len(self.candidates), self._size):
            # moved as they are stored, and widened there
            block = torch.tensor(np.asarray(self.candidates[start : start + self._size])).to(self.device).to(dtype)
            if self._size >= len(self.candidates):
                self._loaded = dtype, block
            yield start, block


@contextmanager
def full_precision() -> Iterator[None]:
    """Compute float32 products in float32, whatever training chose: TF32 would break the bound."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
