"""What size a picture gets before the model's own image processor.

The seven policies are the reference code's; `original` leaves the picture as it is. Their arithmetic is in
`shipped/resizing.py`, which exports carry with them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

from PIL import Image

from gen2embed.shipped.resizing import POLICIES, resized, size_after
from gen2embed.types import Policy
from gen2embed.utils.errors import UserError

ALIASES = {"random": "clamp"}  # the reference's name


@dataclass(frozen=True)
class Resolution:
    """The policy, and the image processor's pixel budget and backend.

    min_pixels, max_pixels: bounds on a picture's area; None leaves the checkpoint's own.
    backend: of the image processor; `pil` and `torchvision` resize slightly differently.
    """

    policy: Policy = "clamp"
    min_pixels: int | None = None
    max_pixels: int | None = None
    backend: Literal["pil", "torchvision"] = "pil"

    def __post_init__(self) -> None:
        object.__setattr__(self, "policy", canonical(self.policy))

    def describe(self) -> dict[str, object]:
        return asdict(self)


def canonical(policy: str) -> str:
    """The policy's own name; raises `UserError` for an unknown one."""
    name = ALIASES.get(policy, policy)
    if name not in POLICIES:
        raise UserError(f"resolution {policy!r} is unknown; choose one of {', '.join(POLICIES)}")
    return name


def target_size(width: int, height: int, policy: str) -> tuple[int, int]:
    """Width and height in pixels after `policy`."""
    return size_after(width, height, canonical(policy))


def resize(picture: Image.Image, policy: str) -> Image.Image:
    """Resize a picture by a policy: Lanczos for `clamp`, bicubic for the squares, as the reference does."""
    return resized(picture, canonical(policy))
