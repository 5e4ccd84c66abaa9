"""Warn of embeddings that do not tell items apart."""

from __future__ import annotations

import numpy as np

from gen2embed.utils.choices import Role
from gen2embed.utils.log import log

COLLAPSED = 0.99  # mean cosine of different items; untrained models with a prompt are well below it
FEWEST = 8  # items; fewer may be alike by chance


def warn_if_collapsed(vectors: np.ndarray, role: Role) -> bool:
    """Warn if the embeddings (n, d) of a role are nearly equal; return whether they are."""
    if len(vectors) < FEWEST or not (mean := mean_cosine(vectors)) > COLLAPSED:
        return False
    log.warning(
        "the embeddings of the %d items as %s are nearly all the same (mean cosine %.4f, above %s): check that "
        "weights, adapter and prompt belong together; after training lower optim.optimizer.lr or raise "
        "loss.temperature",
        len(vectors),
        role,
        mean,
        COLLAPSED,
    )
    return True


def mean_cosine(vectors: np.ndarray) -> float:
    """Return the mean cosine of different rows of unit vectors (n, d), at least two."""
    n, total = len(vectors), vectors.sum(axis=0, dtype=np.float64)
    own = np.square(vectors).sum(dtype=np.float64)
    return float((total @ total - own) / (n * (n - 1)))
