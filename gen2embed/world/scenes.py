"""Scenes of the embedded world: the things on a picture, how they are drawn, and their captions.

A scene is a 3x3 grid of cells on a plain background; a cell holds at most one thing, and a thing has a size,
a texture, a colour and a shape. With a patch of 14 pixels and a merge of 2, a cell is one language-model token.
"""

from __future__ import annotations

import functools
import math
import random
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw

CELL = 28  # pixels
GRID = 3  # cells a side

SHAPES = ("circle", "square", "triangle", "diamond", "star", "cross", "ring", "moon")
COLOURS = {
    "red": (220, 30, 40),
    "green": (40, 160, 60),
    "blue": (40, 70, 220),
    "yellow": (250, 220, 40),
    "purple": (140, 40, 170),
    "orange": (250, 140, 20),
    "cyan": (40, 210, 220),
    "pink": (250, 130, 190),
}
TEXTURES = ("solid", "striped", "dotted")
SIZES = ("small", "large")
BACKGROUNDS = {"white": (250, 250, 250), "gray": (140, 140, 140), "black": (10, 10, 10), "brown": (110, 70, 40)}
COUNTS = ("one", "two", "three", "four")
RELATIONS = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
ATTRIBUTES = {"size": SIZES, "texture": TEXTURES, "colour": tuple(COLOURS), "shape": SHAPES}


@dataclass(frozen=True, order=True)
class Thing:
    """One object: ``large striped red circle``."""

    size: str
    texture: str
    colour: str
    shape: str

    @classmethod
    def sample(cls, rng: random.Random) -> Thing:
        return cls(*(rng.choice(values) for values in ATTRIBUTES.values()))

    def phrase(self, *, size: bool = True, plural: bool = False) -> str:
        shape = self.shape + ("es" if self.shape == "cross" else "s") if plural else self.shape
        return " ".join([self.size] * size + [self.texture, self.colour, shape])

    def words(self) -> list[str]:
        return [self.size, self.texture, self.colour, self.shape]

    def changed(self, attribute: str, rng: random.Random) -> Thing:
        """Return the same thing with another value of one attribute."""
        others = [value for value in ATTRIBUTES[attribute] if value != getattr(self, attribute)]
        return replace(self, **{attribute: rng.choice(others)})


@dataclass(frozen=True)
class Scene:
    """Things and their cells; `relation`, if any, is where the first of two things lies, seen from the second."""

    background: str
    things: tuple[Thing, ...]
    cells: tuple[int, ...]
    relation: str | None = None

    @property
    def meaning(self) -> tuple:
        """Equal for two scenes that have the same captions."""
        if self.relation is None:
            return (self.background, *sorted(self.things))
        if self.relation in ("right of", "below"):  # "A right of B" says "B left of A"
            return (self.background, RELATIONS[self.relation], self.things[::-1])
        return (self.background, self.relation, self.things)

    @property
    def is_count(self) -> bool:
        return len(self.things) > 1 and len(set(self.things)) == 1

    def words(self) -> list[str]:
        """Return the words that describe the scene, one for each attribute: answers to `summarise it in one word`."""
        if self.is_count:
            return [*self.things[0].words(), self.background, COUNTS[len(self.things) - 1]]
        return [word for thing in self.things for word in thing.words()] + [self.background]

    def caption(self, wording: int = 0) -> str:
        """Return one of two captions, which hold for exactly the scenes with this `meaning`."""
        first, *rest = self.things
        if self.relation is not None:
            (a, b), relation = self.things, self.relation
            if wording:
                a, b, relation = b, a, RELATIONS[relation]
            content = f"a {a.phrase()} {relation} a {b.phrase()}"
        elif self.is_count:
            content = f"{COUNTS[len(rest)]} {first.phrase(plural=True)}"
        else:
            phrases = [f"a {thing.phrase()}" for thing in (self.things[::-1] if wording else self.things)]
            content = ", ".join(phrases[:-1]) + " and " + phrases[-1] if rest else phrases[0]
        verb = "are" if self.is_count else "is"
        return f"on {self.background} there {verb} {content}" if wording else f"{content} on {self.background}"

    def draw(self, rng: random.Random) -> Image.Image:
        """Return an RGB picture of 84x84 pixels; `rng` moves each thing by up to two pixels in its cell."""
        pixels = np.full((GRID * CELL, GRID * CELL, 3), BACKGROUNDS[self.background], np.float32)
        for cell, thing in zip(self.cells, self.things, strict=True):
            top, left = (CELL * part for part in divmod(cell, GRID))
            view = pixels[top : top + CELL, left : left + CELL]
            view[:] = _paint(thing, view, rng)
        return Image.fromarray(pixels.round().astype(np.uint8))


def draw_thing(thing: Thing, background: str, rng: random.Random) -> Image.Image:
    """Return the picture of one thing alone: a crop of one cell, 28x28 pixels."""
    return Scene(background, (thing,), (0,)).draw(rng).crop((0, 0, CELL, CELL))


def sample_scene(rng: random.Random, kind: str | None = None) -> Scene:
    """Sample a scene of one thing, of two in a relation, of two to four alike, or of three or four mixed."""
    kind = kind or rng.choice(("one", "relation", "count", "mixed"))
    background = rng.choice(tuple(BACKGROUNDS))
    if kind == "relation":
        relation = rng.choice(tuple(RELATIONS))
        line, (low, high) = rng.randrange(GRID), sorted(rng.sample(range(GRID), 2))
        a, b = distinct_things(rng, 2)
        cells = (line * GRID + low, line * GRID + high) if "of" in relation else (low * GRID + line, high * GRID + line)
        if relation in ("right of", "below"):
            cells = cells[::-1]
        return Scene(background, (a, b), cells, relation)
    if kind == "mixed":
        things = distinct_things(rng, rng.choice((3, 4)))
    else:
        things = [Thing.sample(rng)] * (1 if kind == "one" else rng.choice((2, 3, 4)))
    return Scene(background, tuple(things), tuple(sorted(rng.sample(range(GRID * GRID), len(things)))))


def distinct_things(rng: random.Random, count: int) -> list[Thing]:
    """Sample things of distinct colours and shapes, so that a colour or a shape identifies a thing."""
    colours, shapes = rng.sample(list(COLOURS), count), rng.sample(SHAPES, count)
    pairs = zip(colours, shapes, strict=True)
    return [Thing(rng.choice(SIZES), rng.choice(TEXTURES), colour, shape) for colour, shape in pairs]


def _paint(thing: Thing, cell: np.ndarray, rng: random.Random) -> np.ndarray:
    shift = rng.randint(-2, 2), rng.randint(-2, 2)
    alpha = np.roll(_mask(thing.shape, thing.size), shift, axis=(0, 1))[..., None]
    shade = _shade(thing.texture)[..., None]
    return cell * (1 - alpha) + np.asarray(COLOURS[thing.colour], np.float32) * shade * alpha


@functools.cache
def _shade(texture: str) -> np.ndarray:
    y, x = np.mgrid[:CELL, :CELL]
    dark = {"solid": y < 0, "striped": y // 3 % 2 == 0, "dotted": (y % 5 < 2) & (x % 5 < 2)}[texture]
    return np.where(dark, 0.4, 1.0).astype(np.float32)


@functools.cache
def _mask(shape: str, size: str) -> np.ndarray:
    """Return the share of each pixel of a cell that a shape covers, from a drawing at eight times the size."""
    scale, radius = 8, {"small": 7, "large": 11}[size]
    canvas = Image.new("L", (CELL * scale, CELL * scale))
    pen, middle, r = ImageDraw.Draw(canvas), CELL * scale / 2, radius * scale

    def box(share: float, dx: float = 0.0) -> tuple[float, float, float, float]:
        return (middle + (dx - share) * r, middle - share * r, middle + (dx + share) * r, middle + share * r)

    def polygon(*points: tuple[float, float]) -> None:
        pen.polygon([(middle + x * r, middle + y * r) for x, y in points], fill=255)

    if shape in ("circle", "ring", "moon"):
        pen.ellipse(box(1), fill=255)
        if shape != "circle":
            pen.ellipse(box(0.5) if shape == "ring" else box(0.85, 0.55), fill=0)
    elif shape == "square":
        pen.rectangle(box(0.85), fill=255)
    elif shape == "triangle":
        polygon((0, -1), (0.95, 0.8), (-0.95, 0.8))
    elif shape == "diamond":
        polygon((0, -1.1), (0.7, 0), (0, 1.1), (-0.7, 0))
    elif shape == "cross":
        pen.rectangle((middle - r, middle - 0.35 * r, middle + r, middle + 0.35 * r), fill=255)
        pen.rectangle((middle - 0.35 * r, middle - r, middle + 0.35 * r, middle + r), fill=255)
    else:  # star
        angles = [math.pi * k / 5 - math.pi / 2 for k in range(10)]
        reach = [1.1 if k % 2 == 0 else 0.45 for k in range(10)]
        polygon(*((d * math.cos(a), d * math.sin(a)) for a, d in zip(angles, reach, strict=True)))
    return np.asarray(canvas.resize((CELL, CELL), Image.Resampling.BOX), np.float32) / 255
