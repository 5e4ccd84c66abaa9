"""The twelve tasks of the embedded world: endless streams of examples, each a pure function of a random generator.

Pictures that resemble each other come in families: a scene and variants that differ in one attribute.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from PIL import Image

from gen2embed.world.scenes import (
    BACKGROUNDS,
    CELL,
    COLOURS,
    COUNTS,
    GRID,
    RELATIONS,
    SHAPES,
    SIZES,
    TEXTURES,
    Scene,
    Thing,
    sample_scene,
)

FAMILY = 8  # a scene and its variants
ANSWERS = (*COLOURS, *SHAPES, *TEXTURES, *SIZES, *BACKGROUNDS, *COUNTS, *(name.split()[0] for name in RELATIONS))
OBJECTS = tuple(f"{texture} {colour} {shape}" for texture in TEXTURES for colour in COLOURS for shape in SHAPES)

Side = tuple[str, Image.Image | None]  # a text and a picture


@dataclass(frozen=True)
class Example:
    """A query, its candidates with the positive first, and what the positive means."""

    query: Side
    candidates: list[Side]
    meaning: str


Examples = Callable[[random.Random, float], Iterator[Example]]


def _choose(right: str, labels: tuple[str, ...]) -> list[Side]:
    return [(right, None), *((label, None) for label in labels if label != right)]


def _classification(kind: str, labels: tuple[str, ...], label: Callable[[Thing], str]) -> Examples:
    def examples(rng: random.Random, twins: float) -> Iterator[Example]:
        while True:
            scene = sample_scene(rng, "one")
            right = label(scene.things[0])
            text = f"Represent the given image for {kind} classification."
            yield Example((text, scene.draw(rng)), _choose(right, labels), right)

    return examples


def _question(kinds: tuple[str, ...], ask: Callable[[Scene, random.Random], tuple[str, str]]) -> Examples:
    def examples(rng: random.Random, twins: float) -> Iterator[Example]:
        while True:
            scene = sample_scene(rng, rng.choice(kinds))
            question, right = ask(scene, rng)
            text = f"Represent the given image with the following question: {question}"
            yield Example((text, scene.draw(rng)), _choose(right, ANSWERS), right)

    return examples


def _ask_colour(scene: Scene, rng: random.Random) -> tuple[str, str]:
    thing = rng.choice(scene.things)
    return f"what colour is the {thing.shape}?", thing.colour


def _ask_shape(scene: Scene, rng: random.Random) -> tuple[str, str]:
    thing = rng.choice(scene.things)
    return f"which shape is {thing.colour}?", thing.shape


def _ask_texture(scene: Scene, rng: random.Random) -> tuple[str, str]:
    thing = rng.choice(scene.things)
    return f"what texture has the {thing.colour} {thing.shape}?", thing.texture


def _ask_count(scene: Scene, rng: random.Random) -> tuple[str, str]:
    thing = scene.things[0]
    return f"how many {thing.phrase(plural=True).split()[-1]} are there?", COUNTS[len(scene.things) - 1]


def _ask_spatial(scene: Scene, rng: random.Random) -> tuple[str, str]:
    a, b = (f"{thing.colour} {thing.shape}" for thing in scene.things)
    return f"where is the {a}, seen from the {b}?", str(scene.relation).split()[0]


def _variant(scene: Scene, rng: random.Random) -> tuple[Scene, str]:
    """Return the scene with one attribute changed, and the change in words."""
    attribute = rng.choice(("colour", "shape", "texture", "size", "background"))
    if attribute == "background":
        background = rng.choice([name for name in BACKGROUNDS if name != scene.background])
        return replace(scene, background=background), f"the background is {background}"
    old = rng.choice(scene.things)
    new = old.changed(attribute, rng)
    things = tuple(new if thing == old else thing for thing in scene.things)
    return replace(scene, things=things), f"the {old.colour} {old.shape} is {getattr(new, attribute)}"


def _families(rng: random.Random) -> Iterator[tuple[list[Scene], list[str]]]:
    """Yield families of scenes with the changes of their variants; no meaning comes twice."""
    known: set[tuple] = set()
    while True:
        scene, family, changes = sample_scene(rng), [], [""]
        while scene.meaning in known:
            scene = sample_scene(rng)
        known.add(scene.meaning)
        family = [scene]
        for _ in range(100):
            variant, change = _variant(scene, rng)
            if len(family) < FAMILY and variant.meaning not in known:
                known.add(variant.meaning)
                family.append(variant)
                changes.append(change)
        yield family, changes


def _twin(scene: Scene, rng: random.Random) -> Scene:
    """Return a scene of the same meaning in other cells."""
    if scene.relation:
        return scene  # its cells show the relation; drawing still moves it by some pixels
    cells = sorted(rng.sample(range(GRID * GRID), len(scene.things)))
    return replace(scene, cells=tuple(cells))


def _retrieval(kind: str, candidates: int) -> Examples:
    """Return the examples of picture to caption (i2t), caption to picture (t2i), or picture and change to picture.

    The candidates of a query are its own family, then scenes of seven other families.
    """

    def side_query(family: list[Scene], changes: list[str], index: int, wording: int, rng: random.Random) -> Side:
        if kind == "t2i":
            return f"Find me an image that matches the given caption: {family[index].caption(wording)}", None
        if kind == "i2t":
            return "Find an image caption describing the given image.", family[index].draw(rng)
        return f"Find a similar image with the described change: {changes[index]}", family[0].draw(rng)

    def side_candidate(scene: Scene, wording: int, rng: random.Random) -> Side:
        return (scene.caption(wording), None) if kind == "i2t" else ("Represent the given image.", scene.draw(rng))

    def examples(rng: random.Random, twins: float) -> Iterator[Example]:
        stream = _families(rng)
        while True:
            pool = [next(stream) for _ in range(FAMILY)]
            sides = [[side_candidate(scene, rng.randrange(2), rng) for scene in family] for family, _ in pool]
            for number, (family, changes) in enumerate(pool):
                others = [side for index, group in enumerate(sides) if index != number for side in group]
                for index in range(1 if kind == "change" else 0, len(family)):
                    near = [side for i, side in enumerate(sides[number]) if i != index]
                    wrong = (near + rng.sample(others, len(others)))[: candidates - 1]
                    wording, right = rng.randrange(2), sides[number][index]
                    query = side_query(family, changes, index, wording, rng)
                    yield Example(query, [right, *wrong], repr(family[index].meaning))
                    if rng.random() < twins / (1 - twins):
                        again = [*family]
                        again[index] = _twin(family[index], rng)
                        other_wording = 1 - (right[0] == family[index].caption(1))  # than the first positive's
                        query = side_query(again, changes, index, 1 - wording, rng)
                        right = side_candidate(again[index], other_wording, rng)
                        yield Example(query, [right, *wrong], repr(family[index].meaning))

    return examples


def _grounding(rng: random.Random, twins: float) -> Iterator[Example]:
    """Yield examples of a picture and a phrase for one thing on it to the crop of that thing, among 16 crops."""

    def crops(scene: Scene, picture: Image.Image) -> list[Side]:
        corners = [(CELL * (cell % GRID), CELL * (cell // GRID)) for cell in scene.cells]
        boxes = [(left, top, left + CELL, top + CELL) for left, top in corners]
        return [("Represent the given cropped image of the object.", picture.crop(box)) for box in boxes]

    while True:
        scenes = [sample_scene(rng, "mixed") for _ in range(6)]
        pictures = [scene.draw(rng) for scene in scenes]
        cut = [crops(scene, picture) for scene, picture in zip(scenes, pictures, strict=True)]
        for number, scene in enumerate(scenes):
            others = [side for index, group in enumerate(cut) if index != number for side in group]
            for index, thing in enumerate(scene.things):
                label = f"{thing.texture} {thing.colour} {thing.shape}"
                text = f"Select the portion of the image that isolates the object of the given label: {label}"
                near = [side for i, side in enumerate(cut[number]) if i != index]
                wrong = (near + rng.sample(others, len(others)))[:15]
                meaning = repr((scene.background, thing))
                yield Example((text, pictures[number]), [cut[number][index], *wrong], meaning)


TASKS: dict[str, Examples] = {
    "shape": _classification("shape", SHAPES, lambda thing: thing.shape),
    "colour": _classification("colour", tuple(COLOURS), lambda thing: thing.colour),
    "object": _classification("object", OBJECTS, lambda thing: thing.phrase(size=False)),
    "vqa_colour": _question(("relation", "mixed"), _ask_colour),
    "vqa_shape": _question(("relation", "mixed"), _ask_shape),
    "vqa_texture": _question(("relation", "mixed"), _ask_texture),
    "vqa_count": _question(("one", "count", "count", "count"), _ask_count),
    "vqa_spatial": _question(("relation",), _ask_spatial),
    "i2t": _retrieval("i2t", 64),
    "t2i": _retrieval("t2i", 64),
    "change": _retrieval("change", 32),
    "grounding": _grounding,
}
