"""The arithmetic of the resolution policies.

This file needs Pillow alone. An export carries it, and so resizes where gen2embed is not installed.
"""

from __future__ import annotations

from PIL import Image

SQUARES = {"low": 128, "clip": 336, "mid_low": 448, "mid": 672, "mid_high": 768, "high": 1344}  # pixels a side
POLICIES = (*SQUARES, "clamp", "original")

CLAMP_LONGEST, CLAMP_SHORTEST, CLAMP_RATIO = 992, 336, 2  # pixels, pixels, long side to short side


def size_after(width: int, height: int, policy: str) -> tuple[int, int]:
    """Return the width and height in pixels after a policy of `POLICIES`."""
    if policy == "original":
        return width, height
    if policy in SQUARES:
        return SQUARES[policy], SQUARES[policy]
    long, short = float(max(width, height)), float(min(width, height))
    if long > CLAMP_RATIO * short:
        short = long / CLAMP_RATIO
    scale = 1.0
    if long > CLAMP_LONGEST:
        scale = CLAMP_LONGEST / long
    if short < CLAMP_SHORTEST:
        scale = CLAMP_SHORTEST / short
    ends = int(long * scale), int(short * scale)
    return ends if width >= height else ends[::-1]


def resized(picture: Image.Image, policy: str) -> Image.Image:
    """Return a picture after a policy of `POLICIES`."""
    size = size_after(*picture.size, policy)
    if size == picture.size:
        return picture
    return picture.resize(size, Image.Resampling.LANCZOS if policy == "clamp" else Image.Resampling.BICUBIC)
