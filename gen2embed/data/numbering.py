"""Numbers for equal keys, and the rows of each subset."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

import numpy as np
from jaxtyping import Int

from gen2embed.types import Pair


def number_distinct(keys: Iterable[Hashable]) -> tuple[Int[np.ndarray, " n"], list[int]]:
    """Return a number for each key, equal for equal keys, and where each number occurs first.

    Numbers count up in the order in which keys first occur: "b", "a", "b" gives [0, 1, 0] and [0, 1].
    """
    numbers: dict[Hashable, int] = {}
    first: list[int] = []
    numbered: list[int] = []
    for index, key in enumerate(keys):
        if key not in numbers:
            numbers[key] = len(numbers)
            first.append(index)
        numbered.append(numbers[key])
    return np.array(numbered, np.int64), first


def rows_by_subset(pairs: Sequence[Pair]) -> dict[str, list[int]]:
    """Return the positions of each subset's pairs, subsets in the order in which they first occur."""
    rows: dict[str, list[int]] = {}
    for row, pair in enumerate(pairs):
        rows.setdefault(pair.subset, []).append(row)
    return rows
