"""What size a picture gets before the model's own image processor, and how pictures are opened.

The seven policies are the reference code's; `original` leaves the picture as it is. Their arithmetic is in
`shipped/resizing.py`, which exports carry with them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from PIL import Image, UnidentifiedImageError

from gen2embed.log import progress
from gen2embed.shipped.resizing import POLICIES, resized, size_after
from gen2embed.types import Picture, UserError

Policy = Literal["low", "clip", "mid_low", "mid", "mid_high", "high", "clamp", "random", "original"]

ALIASES = {"random": "clamp"}  # the reference's name

HEADERS_FROM = 5000  # pictures; the headers of fewer are read without a bar


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


def load(picture: Picture) -> Image.Image:
    """Decode a picture to RGB."""
    if isinstance(picture.source, Image.Image):
        return picture.source.convert("RGB")
    try:
        with Image.open(picture.source) as opened:
            return opened.convert("RGB")
    except FileNotFoundError:
        raise UserError(f"the picture {picture.source} does not exist") from None
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"the file {picture.source} is not a picture that can be read: {error}") from None


def check(pictures: Iterable[Picture], roots: Sequence[Path] = ()) -> None:
    """Raise one `UserError` that counts the missing and the unreadable pictures among `pictures`.

    Only headers are read. `roots` are the folders that the paths were looked for in, for the message.
    """
    paths = sorted({picture.source for picture in pictures if isinstance(picture.source, Path)})
    states = []
    long = len(paths) >= HEADERS_FROM
    with ThreadPoolExecutor(16) as pool, progress("checking pictures", len(paths), shown=long) as advance:
        for path, state in zip(paths, pool.map(_state, paths), strict=True):
            states.append((path, state))
            advance()
    others = f" and {len(roots) - 3} more folders in it" if len(roots) > 3 else ""
    looked = f"looked in {', '.join(map(str, roots[:3]))}{others}; set the image folder" if roots else "check the paths"
    for state, remedy in (("missing", looked), ("not readable as pictures", "replace or remove them")):
        bad = [str(path) for path, found in states if found == state]
        if bad:
            shown = ", ".join(bad[:3]) + (", …" if len(bad) > 3 else "")
            raise UserError(f"{len(bad)} of {len(paths)} pictures are {state}: {shown}; {remedy}")


def _state(path: Path) -> str:
    try:
        with Image.open(path):
            return "fine"
    except FileNotFoundError:
        return "missing"
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError):
        return "not readable as pictures"
