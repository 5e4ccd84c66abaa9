"""From training pairs and their vectors to the arrays of each subset."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from gen2embed.data.numbering import number_distinct
from gen2embed.encoding.engine import Encoded
from gen2embed.mining.base import Subset
from gen2embed.types import Pair


def make_subsets(
    pairs: Sequence[Pair],
    rows_of: Mapping[str, Sequence[int]],
    encoded: Sequence[Encoded],
    classification: Collection[str],
) -> dict[str, Subset]:
    """Return the arrays of each subset; vectors without elements where nothing was embedded."""
    queries, positives = (side.vectors for side in encoded) if encoded else (torch.empty(len(pairs), 0),) * 2
    return {
        name: make_subset(
            [pairs[row] for row in rows],
            _take(queries, rows),
            _take(positives, rows),
            name in classification,
        )
        for name, rows in rows_of.items()
    }


def make_subset(pairs: Sequence[Pair], queries: np.ndarray, positives: np.ndarray, classification: bool) -> Subset:
    """Return the arrays of one subset.

    Args:
        pairs: Its n pairs.
        queries: The vectors of the queries, (n, d).
        positives: The vectors of the positives, (n, d).
        classification: Whether the positives are labels.
    """
    positive, first = number_distinct(pair.positive.key for pair in pairs)
    query_ids, _ = number_distinct(pair.query.key for pair in pairs)
    scores = [pair.teacher_score for pair in pairs]
    teacher = None if None in scores else np.array(scores)
    candidates = _take(torch.from_numpy(positives), first)
    return Subset(queries, candidates, positive, query_ids, classification, teacher=teacher)


def _take(vectors: Tensor, rows: Sequence[int]) -> np.ndarray:
    """Return these rows, without a copy if they follow each other, as those of a subset in one file do."""
    if rows and list(rows) == list(range(rows[0], rows[0] + len(rows))):
        return vectors[rows[0] : rows[0] + len(rows)].numpy()
    return vectors[rows].numpy()
