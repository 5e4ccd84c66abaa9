"""Weights of subsets: how often their rows come in training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from gen2embed.data.rows import known_names
from gen2embed.utils.errors import UserError


def check_subset_weights(weights: Mapping[str, float], subsets: Sequence[str]) -> None:
    """Raise `UserError` unless every subset has a weight of at least 0, and one is above."""
    names = list(dict.fromkeys(subsets))
    known_names("batch.weights", "subset", names, list(weights))
    if missing := [name for name in names if name not in weights]:
        raise UserError(f"batch.weights says nothing of {', '.join(missing)}; give every subset a weight, 0 for none")
    if min(weights.values()) < 0 or not max(weights.values()) > 0:
        raise UserError(f"batch.weights are at least 0, and one is above; got {dict(weights)}")


def tempered(subsets: Sequence[str], temperature: float) -> dict[str, float]:
    """Return a weight for each subset: n ** (1 / temperature) for n rows (arXiv 1907.05019, section 4.2).

    A temperature of 1 leaves subsets as large as they are; the higher it is, the more alike they become.

    Args:
        subsets: The subset of each row.
        temperature: A number above 0.
    """
    if temperature <= 0:
        raise UserError(f"batch.temperature is above 0; got {temperature:g}")
    names, counts = np.unique(subsets, return_counts=True)
    return {str(name): float(count ** (1 / temperature)) for name, count in zip(names, counts, strict=True)}
