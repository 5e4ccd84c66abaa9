"""Smaller vectors: their first elements alone, and fewer bits an element; and how they are compared.

    float32   4 bytes an element
    int8      1 byte: the element over the largest magnitude in its vector, in 127 steps either way
    binary    1 bit: whether the element is above zero; eight to a byte, the first in the highest bit

A vector's codes depend on nothing but the vector. The scale of int8 is each vector's own, so there is nothing to
calibrate and nothing to keep, and an outlier, of which language models have many, is never clipped; a cosine does not
see it, but a plain inner product of codes would. Binary codes are those of sentence-transformers' `ubinary`.
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

BITS = {"float32": 32, "int8": 8, "binary": 1}  # an element
STEPS = 127  # of int8 on either side of zero
BLOCK = 4096  # candidates decoded at a time
HALVINGS = 3  # of the full size, unless other sizes are chosen


@dataclass(frozen=True)
class Compression:
    """What an evaluation scores smaller vectors at: every size in every precision.

    dims: sizes in elements; None is the model's own, its half, quarter and eighth.
    """

    dims: Sequence[int] | None = None
    precisions: Sequence[Precision] = PRECISIONS

    def settings(self, width: int) -> list[tuple[int, Precision]]:
        """Each size and precision, for vectors of `width` elements; raises `UserError` for one that cannot be had."""
        dims = self.dims or [width >> halving for halving in range(HALVINGS + 1)]
        return [(check(dim, precision, width), precision) for dim in dims for precision in self.precisions]


def check(dim: int | None, precision: Precision, width: int) -> int:
    """The size of a smaller vector, None being all of it; raises `UserError` for one that cannot be had."""
    dim = width if dim is None else dim
    if precision not in PRECISIONS:
        raise UserError(f"precision {precision!r} is unknown; choose one of {', '.join(PRECISIONS)}")
    if not 1 <= dim <= width:
        raise UserError(f"vectors of {dim} elements cannot be cut from the model's {width}; choose 1 to {width}")
    if precision == "binary" and dim % 8:
        raise UserError(f"binary vectors are whole bytes, and {dim} elements are not; choose a multiple of 8")
    return dim


def size_in_bytes(dim: int, precision: Precision) -> int:
    """Bytes of one vector."""
    return dim * BITS[precision] // 8


def compress(vectors: Float[Tensor, "n d"], dim: int | None, precision: Precision) -> Num[Tensor, "n c"]:
    """The first `dim` elements as unit vectors again, in a precision.

    vectors: unit vectors on the CPU. Returns float32 (n, dim), int8 (n, dim) or, of binary, uint8 (n, dim / 8).
    Raises `UserError` for a size or a precision that cannot be had.
    """
    width = vectors.shape[1]
    dim = check(dim, precision, width)
    cut = vectors if dim == width else torch.nn.functional.normalize(vectors[:, :dim], dim=-1)
    if precision == "int8":
        largest = cut.abs().amax(dim=1, keepdim=True)
        return (cut / largest * STEPS).round().to(torch.int8)
    if precision == "binary":
        return torch.from_numpy(np.packbits(cut.numpy() > 0, axis=1))
    return cut.float()


def decode(codes: Shaped[Tensor, "n c"]) -> Float[Tensor, "n d"]:
    """What codes stand for, up to a factor of each vector: int8 in float64, binary as -1 and 1 in float32.

    Their inner products are exact in these types, as the integers that they are: below 2^53 and 2^24.
    """
    if codes.dtype == torch.uint8:
        return torch.from_numpy(np.unpackbits(codes.numpy(), axis=1)).float() * 2 - 1
    if codes.dtype == torch.int8:
        return codes.double()
    if codes.is_floating_point():
        return codes.float()
    raise UserError(f"vectors are float32, int8 or, of binary, uint8; got {str(codes.dtype).removeprefix('torch.')}")


def similarity(queries: Shaped[Tensor, "n c"], candidates: Shaped[Tensor, "m e"]) -> Float[Tensor, "n m"]:
    """Cosines, from -1 to 1, in float32. Of binary vectors: the share of bits that agree, less that of the others.

    queries, candidates: as `compress` makes them, on the CPU. Either may be of a higher precision than the other.
    Raises `UserError` for vectors of different sizes, and for anything else than such vectors.
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
