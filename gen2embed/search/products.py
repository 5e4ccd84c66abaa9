"""Inner products and bounds of their errors: exact but for float64's rounding, nearly exact, and any other."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float

PARTS = 16  # products that are summed in float32 before float64 takes over
ROUNDING = {torch.float32: 2.0**-24, torch.float64: 2.0**-53}


def allow_tf32(allowed: bool) -> None:
    """Let CUDA round float32 factors to TF32, or not; joblib pickles this function, but not the setting in a script."""
    torch.backends.cuda.matmul.allow_tf32 = allowed


def exact_scores(query: Float[np.ndarray, " d"], rows: Float[np.ndarray, "p d"]) -> Float[np.ndarray, " p"]:
    """Return float64 inner products, each summed in one order that only d decides: halves onto halves."""
    products = rows.astype(np.float64)
    products *= query.astype(np.float64)
    width = products.shape[1]
    while width > 1:
        half = (width + 1) // 2
        products[:, : width - half] += products[:, half:width]
        width = half
    return products[:, 0].copy()


def short_sums(query: Float[np.ndarray, " d"], rows: Float[np.ndarray, "p d"]) -> Float[np.ndarray, " p"]:
    """Return inner products, of which `PARTS` terms at a time are summed in float32, and these sums in float64."""
    count = -(-rows.shape[1] // PARTS)
    products = np.zeros((len(rows), count * PARTS), np.float32)
    np.multiply(rows, query.astype(np.float32), out=products[:, : rows.shape[1]], casting="same_kind")
    return products.reshape(len(rows), PARTS, count).sum(axis=1).sum(axis=1, dtype=np.float64)


def error_bounds(
    queries: Float[np.ndarray, "n d"], largest: float, terms: int, dtype: torch.dtype
) -> Float[np.ndarray, " n"]:
    """Return by how much inner products can be off, in any order of summation (Higham, section 3.1).

    Args:
        queries: One factor.
        largest: The largest norm of the other factor.
        terms: The number of products that are summed.
        dtype: The type in which they are summed.
    """
    terms += 2  # for rounding the factors to `dtype`
    gamma = terms * ROUNDING[dtype] / (1 - terms * ROUNDING[dtype])
    norms = np.linalg.norm(queries.astype(np.float64), axis=1) * largest
    return 1.01 * gamma * norms + terms * torch.finfo(dtype).smallest_normal  # which bounds an underflow
