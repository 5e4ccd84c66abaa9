"""Compress vectors to their first elements and to fewer bits for each, and compare such vectors.

    float32   4 bytes an element
    int8      1 byte: the element over the largest magnitude in its vector, in 127 steps either way
    binary    1 bit: whether the element is above zero; eight to a byte, the first in the highest bit

A vector's codes depend on that vector alone. Each vector has its own scale in int8, so nothing is calibrated or kept,
and an outlier, of which language models have many, is never clipped. A cosine does not depend on the scale; a plain
inner product of codes would. Binary codes are those of sentence-transformers' `ubinary`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Num, Shaped
from torch import Tensor

from gen2embed.utils.choices import PRECISIONS, Precision
from gen2embed.utils.errors import UserError

BITS = {"float32": 32, "int8": 8, "binary": 1}  # of an element
STEPS = 127  # of int8, on either side of zero
BLOCK = 4096  # candidates decoded at a time
HALVINGS = 3  # of the full size, unless other sizes are chosen


@dataclass(frozen=True)
class Compression:
    """The settings at which an evaluation also scores vectors: each size in each precision.

    Args:
        dims: Sizes in elements; None is the model's size, and a half, a quarter and an eighth of it.
        precisions: Types of an element.
    """

    dims: Sequence[int] | None = None
    precisions: Sequence[Precision] = PRECISIONS

    def settings(self, width: int) -> list[tuple[int, Precision]]:
        """Return each size with each precision for vectors of `width` elements; raises as `check_size` does."""
        dims = self.dims or [width >> halving for halving in range(HALVINGS + 1)]
        return [(check_size(dim, precision, width), precision) for dim in dims for precision in self.precisions]


def check_size(dim: int | None, precision: Precision, width: int) -> int:
    """Return the size of a compressed vector, `width` for None; raises `UserError` for an impossible one."""
    dim = width if dim is None else dim
    if precision not in PRECISIONS:
        raise UserError(f"precision {precision!r} is unknown; choose one of {', '.join(PRECISIONS)}")
    if not 1 <= dim <= width:
        raise UserError(f"vectors of {dim} elements cannot be cut from the model's {width}; choose 1 to {width}")
    if precision == "binary" and dim % 8:
        raise UserError(f"binary vectors are whole bytes, and {dim} elements are not; choose a multiple of 8")
    return dim


def size_in_bytes(dim: int, precision: Precision) -> int:
    """Return the bytes of one vector."""
    return dim * BITS[precision] // 8


def compress(vectors: Float[Tensor, "n d"], dim: int | None, precision: Precision) -> Num[Tensor, "n c"]:
    """Return the first `dim` elements of vectors, as unit vectors again, in a precision.

    Args:
        vectors: Unit vectors on the CPU.
        dim: Elements to keep; None keeps all.
        precision: The type of an element.

    Returns:
        float32 (n, dim), int8 (n, dim), or uint8 (n, dim / 8) for binary.

    Raises:
        UserError: For a size or a precision that is impossible.
    """
    width = vectors.shape[1]
    dim = check_size(dim, precision, width)
    kept = vectors if dim == width else torch.nn.functional.normalize(vectors[:, :dim], dim=-1)
    if precision == "int8":
        largest = kept.abs().amax(dim=1, keepdim=True)
        return (kept / largest * STEPS).round().to(torch.int8)
    if precision == "binary":
        return torch.from_numpy(np.packbits(kept.numpy() > 0, axis=1))
    return kept.float()


def decode(codes: Shaped[Tensor, "n c"]) -> Float[Tensor, "n d"]:
    """Return vectors from their codes, up to a factor of each: int8 as float64, binary as -1 and 1 in float32.

    Their inner products are integers below 2^53 and 2^24, so they are exact in these types.
    """
    if codes.dtype == torch.uint8:
        return torch.from_numpy(np.unpackbits(codes.numpy(), axis=1)).float() * 2 - 1
    if codes.dtype == torch.int8:
        return codes.double()
    if codes.is_floating_point():
        return codes.float()
    raise UserError(f"vectors are float32, int8 or, of binary, uint8; got {str(codes.dtype).removeprefix('torch.')}")


def similarity(queries: Shaped[Tensor, "n c"], candidates: Shaped[Tensor, "m e"]) -> Float[Tensor, "n m"]:
    """Return cosines, from -1 to 1, in float32. For binary vectors: the share of equal bits less that of unequal ones.

    Args:
        queries: Vectors as `compress` returns them, on the CPU.
        candidates: Likewise; the precisions may differ.

    Raises:
        UserError: For vectors of different sizes, and for other tensors.
    """
    for name, vectors in (("queries", queries), ("candidates", candidates)):
        if not isinstance(vectors, Tensor) or vectors.ndim != 2:
            got = f"a tensor of shape {tuple(vectors.shape)}" if isinstance(vectors, Tensor) else type(vectors).__name__
            raise UserError(f"{name} are rows of a tensor, as encode returns them, also of one vector; got {got}")
    left = decode(queries)
    columns = [_cosines(left, decode(block)) for block in candidates.split(BLOCK)]
    return torch.cat(columns, dim=1)


def _cosines(left: Float[Tensor, "n d"], right: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    if left.shape[1] != right.shape[1]:
        raise UserError(
            f"queries of {left.shape[1]} elements cannot be compared with candidates of {right.shape[1]}; encode both "
            "by one model, with one truncate_dim"
        )
    common = torch.promote_types(left.dtype, right.dtype)
    left, right = left.to(common), right.to(common)
    norms = torch.sqrt((left * left).sum(dim=1)[:, None] * (right * right).sum(dim=1)[None, :])
    return (left @ right.T / norms).clamp(-1, 1).float()
