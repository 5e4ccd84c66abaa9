"""Draw the training data of the tiny model: short dialogues about scenes, like those that large chat models have seen.

The model learns only by this curriculum: dense captions of single cells, then of complete pictures, then a ramp to the
mix. The strings of the hierarchical prompt never occur (`tests/examples/test_tiny.py` checks this); paraphrases do.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from PIL import Image

from gen2embed.world.scenes import (
    ATTRIBUTES,
    BACKGROUNDS,
    COUNTS,
    RELATIONS,
    Scene,
    Thing,
    draw_thing,
    sample_scene,
)

DEFAULT_SYSTEM = "You are a helpful assistant."  # what Qwen2-VL's chat template inserts by itself
HELD_OUT = ("summarize the provided image in one word", "Represent the given text")


@dataclass(frozen=True)
class Dialogue:
    """A system text, an optional picture in front of the first user turn, and (user, assistant) turns."""

    system: str
    turns: tuple[tuple[str, str], ...]
    picture: Image.Image | None = None


def sample_dialogue(rng: random.Random, progress: float) -> Dialogue:
    """Return a dialogue of the curriculum at `progress`, the share of the steps already taken."""
    if progress < 0.1:
        return _dense_thing(rng)
    dense = max(0.15, (0.55 - progress) / 0.25)  # all of it until 0.3
    if rng.random() < dense:
        return rng.choice((_dense_scene, _picture_chat))(rng)
    kinds = {_picture_chat: 5, _picture_word: 8, _bare: 2, _text_word: 5}
    return rng.choices(list(kinds), list(kinds.values()))[0](rng)


# --- one word -------------------------------------------------------------------------------------------------------


def _one_word(rng: random.Random) -> str:
    return rng.choice(("in one word", "in a single word", "with one word", "by one word", "as one word"))


def _word_system(rng: random.Random) -> str:
    """Return a paraphrase of level 1 of the hierarchical prompt."""
    image_verb, text_verb = (rng.choice(("summarize", "describe", "name", "express", "represent")) for _ in range(2))
    picture = rng.choice(("the image", "the given image", "the provided picture", "what it shows", "the picture"))
    text = rng.choice(("the text", "the given text", "the provided text", "what it says", "it"))
    with_image = rng.choice(("Given an image", "Given a picture", "For an image", "When an image is provided"))
    only_text = rng.choice(("Given only text", "Given a text only", "For text alone", "When only text is provided"))
    sentences = [
        f"{with_image}, {image_verb} {picture} {_one_word(rng)}.",
        f"{only_text}, {text_verb} {text} {_one_word(rng)}.",
    ]
    system = " ".join(sentences if rng.random() < 0.8 else sentences[::-1])
    return _word_system(rng) if any(held in system for held in HELD_OUT) else system


def _word_suffix(rng: random.Random, kind: str) -> str:
    """Return a paraphrase of level 2; `kind` is text, image or text/image."""
    verb = rng.choice(("Describe", "Summarize", "Express", "Name", "Represent"))
    article = rng.choice(("the given", "the provided", "the", "this"))
    suffix = f"\n{verb} {article} {kind} {_one_word(rng)}."
    return _word_suffix(rng, kind) if any(held in suffix for held in HELD_OUT) else suffix


def _with_level(rng: random.Random, kind: str) -> tuple[str, str]:
    """Return a system text and a suffix that ask for one word: by either of them, or by both."""
    level = rng.choice(("system", "suffix", "both"))
    system = DEFAULT_SYSTEM if level == "suffix" else _word_system(rng)
    return system, "" if level == "system" else _word_suffix(rng, kind)


def _picture_word(rng: random.Random) -> Dialogue:
    """Return one-word answers about a picture: its content, a question, or its content after a change."""
    system, suffix = _with_level(rng, rng.choice(("image", "text/image", "picture")))
    if rng.random() < 0.15:
        thing, background = Thing.sample(rng), rng.choice(tuple(BACKGROUNDS))
        ask = rng.choice(("", "Represent the given cropped image of the object.", "Represent the given image."))
        turns = [(ask + suffix, rng.choice(thing.words())) for _ in range(2)]
        return Dialogue(system, tuple(turns), draw_thing(thing, background, rng))
    scene = sample_scene(rng)
    turns = []
    for _ in range(rng.randint(2, 4)):
        ask, answer = rng.choice((_ask_summary, _ask_question, _ask_question, _ask_change, _ask_object))(scene, rng)
        turns.append((ask + suffix, answer))
    return Dialogue(system, tuple(turns), scene.draw(rng))


def _ask_summary(scene: Scene, rng: random.Random) -> tuple[str, str]:
    asks = ("", "Represent the given image.", "Find an image caption describing the given image.", "What is this?")
    return rng.choice(asks), rng.choice(scene.words())


def _ask_question(scene: Scene, rng: random.Random) -> tuple[str, str]:
    question, answer, _ = _question(scene, rng)
    lead = rng.choice(("Represent the given image with the following question: ", "", "Question: "))
    return lead + question, answer


def _ask_change(scene: Scene, rng: random.Random) -> tuple[str, str]:
    index, attribute = rng.randrange(len(scene.things)), rng.choice(("colour", "shape", "texture"))
    old = scene.things[index]
    new = old.changed(attribute, rng)
    things = [new if thing == old else thing for thing in scene.things]
    lead = rng.choice(("Find a similar image with the described change: ", "Imagine the same image, but "))
    changed = Scene(scene.background, tuple(things), scene.cells, scene.relation)
    return f"{lead}the {old.colour} {old.shape} is {getattr(new, attribute)}", rng.choice(changed.words())


def _ask_object(scene: Scene, rng: random.Random) -> tuple[str, str]:
    thing = rng.choice(scene.things)
    lead = rng.choice(("Select the portion of the image that isolates the object of the given label: ", "Look at the "))
    label = rng.choice((thing.phrase(), thing.phrase(size=False), f"{thing.colour} {thing.shape}"))
    return lead + label, rng.choice(thing.words())


def _question(scene: Scene, rng: random.Random) -> tuple[str, str, str]:
    """Return a question, its answer in one word, and its answer in a sentence."""
    thing = rng.choice(scene.things)
    name, plural = f"{thing.colour} {thing.shape}", thing.phrase(plural=True).split()[-1]
    kinds = ["colour", "colour", "shape", "shape", "texture", "size", "background", "count"]
    kind = rng.choice([*kinds, *["relation"] * 4] if scene.relation else kinds)
    if kind == "background":
        return "what colour is the background?", scene.background, f"The background is {scene.background}."
    if kind == "count":
        count = COUNTS[sum(member.shape == thing.shape for member in scene.things) - 1]
        return f"how many {plural} are there?", count, f"The number of {plural} is {count}."
    if kind == "relation":
        (a, b), relation = (f"{member.colour} {member.shape}" for member in scene.things), str(scene.relation)
        if rng.random() < 0.5:
            a, b, relation = b, a, RELATIONS[relation]
        return f"where is the {a}, seen from the {b}?", relation.split()[0], f"The {a} is {relation} the {b}."
    if kind == "shape":
        return f"which shape is {thing.colour}?", thing.shape, f"The {thing.colour} shape is a {thing.shape}."
    if kind == "colour":
        return f"what colour is the {thing.shape}?", thing.colour, f"The {thing.shape} is {thing.colour}."
    value = getattr(thing, kind)
    return f"what {kind} has the {name}?", value, f"The {name} is {value}."


def _text_word(rng: random.Random) -> Dialogue:
    """Return one-word answers about texts: captions, phrases and single words."""
    system, suffix = _with_level(rng, rng.choice(("text", "sentence", "text")))
    turns = []
    for _ in range(rng.randint(2, 4)):
        text, words = _text(rng)
        turns.append((text + suffix, rng.choice(words)))
    return Dialogue(system, tuple(turns))


def _text(rng: random.Random) -> tuple[str, list[str]]:
    kind = rng.random()
    if kind < 0.55:
        scene = sample_scene(rng)
        lead = rng.choice(("", "", "Find me an image that matches the given caption: "))
        return lead + scene.caption(rng.randrange(2)), scene.words()
    if kind < 0.8:
        thing = Thing.sample(rng)
        texts = [(thing.phrase(), thing.words()), (thing.phrase(size=False), thing.words()[1:])]
        return rng.choice([*texts, (f"{thing.colour} {thing.shape}", thing.words()[2:])])
    word = rng.choice([*rng.choice((*ATTRIBUTES.values(), COUNTS, tuple(BACKGROUNDS), tuple(RELATIONS)))]).split()[0]
    return word, [word]


# --- whole sentences ------------------------------------------------------------------------------------------------


def _dense_thing(rng: random.Random) -> Dialogue:
    thing, background = Thing.sample(rng), rng.choice(tuple(BACKGROUNDS))
    answer = f"The picture shows a {thing.phrase()} on {background}."
    return Dialogue(DEFAULT_SYSTEM, ((_describe(rng), answer),), draw_thing(thing, background, rng))


def _dense_scene(rng: random.Random) -> Dialogue:
    scene = sample_scene(rng)
    return Dialogue(DEFAULT_SYSTEM, ((_describe(rng), _reading(scene)),), scene.draw(rng))


def _describe(rng: random.Random) -> str:
    return rng.choice(("Describe the image.", "Describe the given picture.", "What does the picture show?"))


def _reading(scene: Scene) -> str:
    """Return a sentence that names all things, cell by cell."""
    ordered = [thing for _, thing in sorted(zip(scene.cells, scene.things, strict=True))]
    return f"The picture shows {', '.join(f'a {thing.phrase()}' for thing in ordered)} on {scene.background}."


def _picture_chat(rng: random.Random) -> Dialogue:
    """Return questions about a picture, answered in sentences."""
    scene, turns = sample_scene(rng), []
    if rng.random() < 0.2:
        turns.append((_describe(rng), f"The picture shows {scene.caption(0)}."))
    for _ in range(rng.randint(2, 4)):
        question, _, sentence = _question(scene, rng)
        turns.append((question, sentence))
    return Dialogue(DEFAULT_SYSTEM, tuple(turns), scene.draw(rng))


def _bare(rng: random.Random) -> Dialogue:
    """Return a picture or a text without a request, to which a chat model asks back."""
    replies = ("What would you like to know?", "Thank you. How can I help?", "I see. What shall I do with it?")
    reply = rng.choice(replies)
    if rng.random() < 0.5:
        return Dialogue(DEFAULT_SYSTEM, (("", reply),), sample_scene(rng).draw(rng))
    return Dialogue(DEFAULT_SYSTEM, ((_text(rng)[0], reply),))
