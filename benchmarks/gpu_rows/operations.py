"""How many floating-point operations embedding prepared items takes, each distinct token and picture once.

A packed row says for each token j up to where others attend to it, `ends[j]`, itself included. So the pairs of tokens
that attend to each other are

    sum over j of (ends[j] - j),

of T² that a dense mask has. A pair costs 4 operations (a product and a sum, for the similarity and for the value) for
each of the `hidden` elements of all heads, in each layer; a token costs 2 for each weight of the layers' matrices.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from yardstick import Shape

from gen2embed.encoding.batch import Chunk, Prepared


@dataclass(frozen=True)
class Operations:
    """The floating-point operations of some rows.

    Args:
        tokens: The tokens of the rows.
        text: The operations of the layers' matrices.
        attention: The operations of the pairs of tokens that a mask lets through.
        dense: The operations of all pairs of a row, which a kernel that takes a mask computes.
        vision: The operations of the vision tower, its attention included.
    """

    tokens: int = 0
    text: float = 0.0
    attention: float = 0.0
    dense: float = 0.0
    vision: float = 0.0

    @property
    def forward(self) -> float:
        """Return what one pass needs."""
        return self.text + self.attention + self.vision

    @property
    def step(self) -> float:
        """Return what the gradient needs, once forward and back to the layers' inputs.

        The weights are frozen, so the way back costs their matrices once again, and attention twice; adapters are not
        counted.
        """
        return 2 * self.text + 3 * self.attention + self.vision

    def __add__(self, other: Operations) -> Operations:
        return Operations(
            *(mine + theirs for mine, theirs in zip(vars(self).values(), vars(other).values(), strict=True))
        )


def count_operations(shape: Shape, prepared: Iterable[Prepared]) -> Operations:
    """Return the operations of packed rows, and of each part's distinct pictures."""
    total = Operations()
    for part in prepared:
        for chunk in part.chunks:
            total += _of_row(shape, chunk)
        grids = [int(inputs["image_grid_thw"].prod()) for inputs in part.pictures.values()]
        weights = sum(2 * patches // shape.merge**2 * shape.vision_weights for patches in grids)
        attention = sum(4 * patches**2 * shape.vision_width * shape.vision_depth for patches in grids)
        total += Operations(vision=float(weights + attention))
    return total


def _of_row(shape: Shape, chunk: Chunk) -> Operations:
    ends = chunk.inputs["ends"]
    tokens = len(ends)
    visible = int(ends.sum()) - tokens * (tokens - 1) // 2
    a_pair = 4 * shape.hidden * shape.layers
    return Operations(
        tokens, float(2 * tokens * shape.text_weights), float(a_pair * visible), float(a_pair * tokens**2)
    )
