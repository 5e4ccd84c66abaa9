"""The size of a picture before it goes through the model's own image processor.

Seven policies are the reference code's; `original` leaves the picture as it is. Their arithmetic is in
`shipped/resizing.py`, of which exports hold a copy.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

from PIL import Image

from gen2embed.shipped.resizing import POLICIES, resized
from gen2embed.types import Policy
from gen2embed.utils.errors import UserError

ALIASES = {"random": "clamp"}  # the reference's name


@dataclass(frozen=True)
class Resolution:
    """How pictures are resized.

    Args:
        policy: How a picture is resized before the image processor.
        min_pixels: The image processor's lower bound on a picture's area; None leaves the checkpoint's.
        max_pixels: Its upper bound; None leaves the checkpoint's.
        backend: Its library; `pil` and `torchvision` resize slightly differently.
    """

    policy: Policy = "clamp"
    min_pixels: int | None = None
    max_pixels: int | None = None
    backend: Literal["pil", "torchvision"] = "pil"

    def __post_init__(self) -> None:
        object.__setattr__(self, "policy", canonical(self.policy))
        for name in ("min_pixels", "max_pixels"):
            if (pixels := getattr(self, name)) is not None and pixels < 1:
                raise UserError(f"resolution.{name} is at least 1, or null; got {pixels}")

    def describe(self) -> dict[str, object]:
        """Return plain values, for fingerprints and checkpoints."""
        return asdict(self)


def canonical(policy: str) -> str:
    """Return the name of a policy for its name or alias; raises `UserError` for an unknown one."""
    name = ALIASES.get(policy, policy)
    if name not in POLICIES:
        raise UserError(f"resolution {policy!r} is unknown; choose one of {', '.join(POLICIES)}")
    return name


def resize(picture: Image.Image, policy: str) -> Image.Image:
    """Return a picture resized by a policy: Lanczos for `clamp`, bicubic for squares, as the reference does."""
    return resized(picture, canonical(policy))
