"""The values that pass between folders: frozen and plain, without a model or an open file in them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from gen2embed.utils.choices import Role
from gen2embed.utils.content import not_a_file, orientation, shown, wrong_with
from gen2embed.utils.errors import UserError
from gen2embed.utils.picture_facts import PictureFacts, known_picture

Advance = Callable[[int], object]  # called with the number of steps of long work that were done

IMAGE_MARKER = "<|image_1|>"  # the place of the picture in MMEB's texts


def no_progress(steps: int) -> None:
    """An `Advance` that shows nothing."""


@dataclass(frozen=True, eq=False)
class ImagePart:
    """A picture by path, or in memory."""

    source: Path | Image.Image

    @cached_property
    def facts(self) -> PictureFacts:
        """The digest and size of a file; raises `UserError` for a file that is missing or cannot be read."""
        assert isinstance(self.source, Path)
        return known_picture(self.source)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, as stored; 0 for a file that cannot be embedded."""
        return self.source.size if isinstance(self.source, Image.Image) else (self.facts.width, self.facts.height)

    @cached_property
    def key(self) -> str:
        """Equal for equal pictures: the digest of the file's content, wherever the file lies, or of the pixels."""
        if isinstance(self.source, Path):
            return f"file\0{self.facts.digest.hex()}"
        picture = self.source
        if picture.mode in ("P", "PA"):  # the bytes are indices into a palette
            picture = picture.convert("RGBA")
        turned = f"\0{turn}" if (turn := orientation(self.source)) != 1 else ""
        pixels = hashlib.blake2b(picture.tobytes(), digest_size=16).hexdigest()
        return f"{turned}{picture.mode}\0{picture.size}\0{pixels}"

    def __str__(self) -> str:
        source = self.source
        return str(source) if isinstance(source, Path) else f"a {source.width}x{source.height} PIL picture"


@dataclass(frozen=True, eq=False)
class Item:
    """Texts and pictures in order, at least one, that become one vector. An instruction replaces the system text.

    A lone empty text is allowed, since some public benchmarks rank it; `Item.create` refuses it.
    """

    parts: tuple[str | ImagePart, ...]
    instruction: str | None = None

    def __post_init__(self) -> None:
        if not self.parts:
            raise UserError("an item has no parts; give it a text or a picture")
        for part in (*self.parts, self.instruction or ""):
            if not isinstance(part, str | ImagePart):
                raise UserError(f"the parts of an item are texts and ImageParts; got {type(part).__name__}")
        for text in (*self.texts, self.instruction or ""):
            if wrong := wrong_with(text):
                raise UserError(f"a text {wrong}")

    @classmethod
    def create(
        cls, text: str = "", image: str | Path | Image.Image | None = None, instruction: str | None = None
    ) -> Item:
        """Return an item of one text and at most one picture.

        Args:
            text: The text; empty for a picture alone.
            image: The picture, by path or as a PIL image. It stands at the first `IMAGE_MARKER` of the text, else
                before the text.
            instruction: Replaces the prompt's system text.

        Raises:
            UserError: There is neither a text nor a picture, or a value is of another type.
        """
        if not isinstance(text, str | None) or not isinstance(image, str | Path | Image.Image | None):
            kinds = f"{type(text).__name__} and {type(image).__name__}"
            raise UserError(f"an item is made of a text, and of a path or a PIL picture; got {kinds}")
        if image is None or image == "":
            if not text:
                raise UserError("an item needs a text or a picture; this one has neither")
            return cls((text,), instruction)
        if not isinstance(image, Image.Image) and (why := not_a_file(str(image))):
            raise UserError(f"the picture {shown(image)} {why}")
        picture = ImagePart(Path(image) if isinstance(image, str) else image)
        text = text or ""
        before, marker, after = text.partition(IMAGE_MARKER)
        if not marker:
            before, after = "", "\n" + text if text else ""
        return cls(tuple(part for part in (before, picture, after) if part), instruction)

    @property
    def pictures(self) -> tuple[ImagePart, ...]:
        return tuple(part for part in self.parts if isinstance(part, ImagePart))

    @property
    def texts(self) -> tuple[str, ...]:
        return tuple(part for part in self.parts if isinstance(part, str))

    @cached_property
    def key(self) -> str:
        """A digest that is equal for two items exactly if they get the same vector."""
        parts = [f"t{part}" if isinstance(part, str) else f"p{part.key}" for part in self.parts]
        text = repr((parts, self.instruction))
        return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()

    @property
    def portable(self) -> list[str]:
        """Its texts, and the file names of its pictures without their folders, which differ between machines."""
        return [part if isinstance(part, str) else f"\0{Path(str(part)).name}" for part in self.parts]

    def __str__(self) -> str:
        return ", ".join(f"text {part[:60]!r}" if isinstance(part, str) else f"picture {part}" for part in self.parts)


@dataclass(frozen=True)
class Pair:
    """One training row.

    Args:
        query: The query.
        positive: The right candidate.
        subset: The name of the subset that the row comes from.
        row: Its number in the subset.
        teacher_score: Another model's score of the query and the positive; None if the data have none.
        negatives: Candidates that the row itself names as wrong.
    """

    query: Item
    positive: Item
    subset: str
    row: int
    teacher_score: float | None = None
    negatives: tuple[Item, ...] = ()

    @property
    def pictures(self) -> tuple[ImagePart, ...]:
        return tuple(picture for item in (self.query, self.positive, *self.negatives) for picture in item.pictures)


@dataclass(frozen=True)
class RankingTask:
    """Queries, each with candidates to rank.

    Args:
        name: The task.
        group: The meta-task that it belongs to.
        queries: The queries.
        candidates: The distinct candidates of all queries.
        choices: For each query, indices into `candidates`, in the order of the annotations, which decides ties.
        relevance: For each query, the grade of each choice, above zero for a right one.
        query_role: The prompt's role of the queries.
        candidate_role: The prompt's role of the candidates.
        strict: Whether a tie is wrong; otherwise the first of the best choices counts.
        rows: For each query, the benchmark's row. A row is right if all of its queries, which follow each other, are.
            None: each query is a row.
        chance: The expected score of random embeddings. None computes it from the grades, if each query is a row.
    """

    name: str
    group: str
    queries: tuple[Item, ...]
    candidates: tuple[Item, ...]
    choices: tuple[Sequence[int] | np.ndarray, ...]
    relevance: tuple[Sequence[float] | np.ndarray, ...]
    query_role: Role = "query"
    candidate_role: Role = "candidate"
    strict: bool = False
    rows: tuple[int, ...] | None = None
    chance: float | None = None

    def items(self) -> Iterator[Item]:
        """Yield the queries, then the candidates."""
        yield from self.queries
        yield from self.candidates


Policy = Literal["low", "clip", "mid_low", "mid", "mid_high", "high", "clamp", "random", "original"]
