"""Inner products whose error is known: exact but for float64's rounding, nearly so, and by how much others are off."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float

PARTS = 16  # products that are summed in float32 before float64 takes over
ROUNDING = {torch.float32: 2.0**-24, torch.float64: 2.0**-53}


def allow_tf32(allowed: bool) -> None:
    """Let CUDA round float32 factors to TF32, or not; a script cannot name the setting, as joblib pickles its task."""
    torch.backends.cuda.matmul.allow_tf32 = allowed


def exact_scores(query: Float[np.ndarray, " d"], rows: Float[np.ndarray, "p d"]) -> Float[np.ndarray, " p"]:
    """Float64 inner products, each summed in the one order that d defines: halves onto halves."""
    products = rows.astype(np.float64)
    products *= query.astype(np.float64)
    width = products.shape[1]
    while width > 1:
        half = (width + 1) // 2
        products[:, : width - half] += products[:, half:width]
        width = half
    return products[:, 0].copy()


def short_sums(query: Float[np.ndarray, " d"], rows: Float[np.ndarray, "p d"]) -> Float[np.ndarray, " p"]:
    """Inner products, of which `PARTS` terms at a time are summed in float32, and these sums in float64."""
    count = -(-rows.shape[1] // PARTS)
    products = np.zeros((len(rows), count * PARTS), np.float32)
    np.multiply(rows, query.astype(np.float32), out=products[:, : rows.shape[1]], casting="same_kind")
    return products.reshape(len(rows), PARTS, count).sum(axis=1).sum(axis=1, dtype=np.float64)


def error_bounds(
    queries: Float[np.ndarray, "n d"], largest: float, terms: int, dtype: torch.dtype
) -> Float[np.ndarray, " n"]:
    """By how much sums of so many products in `dtype` can be off, in any order (Higham, section 3.1).

    largest: norm of the other factor. The smallest normal number is for what underflows.
    """
    terms += 2  # for rounding the factors to `dtype`
    gamma = terms * ROUNDING[dtype] / (1 - terms * ROUNDING[dtype])
    norms = np.linalg.norm(queries.astype(np.float64), axis=1) * largest
    return 1.01 * gamma * norms + terms * torch.finfo(dtype).smallest_normal
