"""The interface of a miner: it groups the rows of a subset into clusters."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Sequence
from dataclasses import dataclass, is_dataclass
from typing import ClassVar, Protocol, cast

import numpy as np
from jaxtyping import Float, Int

from gen2embed.search.exact import nearest
from gen2embed.types import Advance, no_progress
from gen2embed.utils.errors import UserError


@dataclass(frozen=True)
class Subset:
    """One subset in arrays.

    Args:
        queries: Unit vectors of the rows' queries.
        candidates: Unit vectors of the distinct candidates.
        positive: The candidate that each row is paired with.
        query_ids: Equal for rows with the same query.
        classification: Whether the candidates are labels.
        nearest: The candidates most similar to each query, most similar first: as many as the miner asks for, or all
            there are. None: they are searched when they are needed.
        teacher: Another model's score of each pair; None if the data have none.
    """

    queries: Float[np.ndarray, "n d"]
    candidates: Float[np.ndarray, "m d"]
    positive: Int[np.ndarray, " n"]
    query_ids: Int[np.ndarray, " n"]
    classification: bool
    nearest: Int[np.ndarray, "n k"] | None = None
    teacher: Float[np.ndarray, " n"] | None = None

    def check(self, top_k: int) -> None:
        """Raise `UserError` for rows that clusters of `top_k` + 1 cannot be made of."""
        check_rows(self.queries, self.candidates, self.positive, self.query_ids, top_k)

    def top(self, count: int) -> Int[np.ndarray, "n k"]:
        """Return the `count` candidates most similar to each query, or all there are, most similar first."""
        count = min(count, len(self.candidates))
        if self.nearest is None or count > self.nearest.shape[1]:  # more than the miner's `neighbours`
            return nearest(self.queries, self.candidates, count)
        return self.nearest[:, :count]


class Miner(Protocol):
    """A dataclass that groups the rows of a subset; its fields are written to the clusters' manifest.

    Attributes:
        embeds: Whether it looks at embeddings.
        top_k: Its largest cluster has one row more.
    """

    embeds: ClassVar[bool]
    top_k: int

    @property
    def neighbours(self) -> int:
        """How many of the candidates nearest to each query it needs; 0 searches none."""

    def mine(self, subset: Subset, advance: Advance = no_progress) -> list[list[int]]:
        """Return clusters of rows, the anchor first; call `advance` so that its numbers add up to the rows."""


def check_miner_class(miner: object) -> Miner:
    """Return a miner; raises `UserError` for an object that lacks a part of the interface."""
    lacks = [name for name in ("embeds", "neighbours", "top_k", "mine") if not hasattr(miner, name)]
    if not is_dataclass(miner) or isinstance(miner, type) or lacks:
        fault = f"{type(miner).__name__} has no {lacks[0]}" if lacks else f"got {type(miner).__name__}, which is none"
        raise UserError(f"a miner is an instance of a dataclass with embeds, neighbours, top_k and mine; {fault}")
    try:
        inspect.signature(miner.mine).bind(None, no_progress)  # type: ignore[attr-defined]
    except TypeError as error:
        raise UserError(f"{type(miner).__name__}.mine takes a subset and a function advance; {error}") from error
    return cast("Miner", miner)


def check_members(clusters: object, rows: int, miner: object) -> list[list[int]]:
    """Return what a miner made of the `rows` of a subset; raises `UserError` for what are no clusters of them."""
    name = type(miner).__name__
    try:
        checked = [[operator.index(member) for member in members] for members in clusters]  # type: ignore[attr-defined]
    except TypeError as error:
        raise UserError(f"{name}.mine returns lists of row numbers: {error}") from error
    for members in checked:
        if not members or len(set(members)) < len(members) or not 0 <= min(members) <= max(members) < rows:
            raise UserError(
                f"{name}.mine returned the cluster {members}; a cluster holds at least one of the {rows} rows of its "
                "subset, by number from 0, and none twice"
            )
    return checked


def check_rows(
    queries: np.ndarray,
    candidates: np.ndarray,
    positive: Sequence[int] | np.ndarray,
    query_ids: Sequence[int] | np.ndarray | None,
    top_k: int,
) -> None:
    """Raise `UserError` for rows that cannot be mined. The values of vectors are checked where they are searched."""
    lengths = {"queries": len(queries), "positive": len(positive)}
    if query_ids is not None:
        lengths["query_ids"] = len(query_ids)
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{count} {name}" for name, count in lengths.items())
        raise UserError(f"{', '.join(lengths)} have one entry a row; got {counts}; give as many of each")
    if len(queries) == 1:
        raise UserError("one row cannot be mined: a cluster needs two; add rows")
    if top_k >= len(queries):
        most = len(queries) - 1
        raise UserError(
            f"top_k={top_k} is larger than the data: {len(queries)} rows have at most {most} owners; lower it"
        )
    if len(positive) and not 0 <= np.min(positive) <= np.max(positive) < len(candidates):
        raise UserError(
            f"positive holds indices outside of the {len(candidates)} candidates, from {np.min(positive)} to "
            f"{np.max(positive)}; count from 0"
        )
