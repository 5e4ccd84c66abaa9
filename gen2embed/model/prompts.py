"""Hierarchical prompts: the text that a model reads for an item in a role.

Level 1 is a system text, and level 2 is a suffix to the query (arXiv 2508.00955, section 3). `render` returns pieces,
each of which says where its characters come from, so that only the template's own special tokens count as such: the
same string in a user's text stays text.

Two conventions decide what surrounds the texts, and which positions the image tokens get:

    reference   the paper's template, a bare image token, one-dimensional positions
    native      the model's own chat template and its own positions
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Literal, NamedTuple

from gen2embed.types import IMAGE_MARKER, Item
from gen2embed.utils.choices import Convention, Role
from gen2embed.utils.errors import UserError

Modality = Literal["text", "image"]
Kind = Literal["template", "prompt", "text", "image", "marker"]


@dataclass(frozen=True)
class Piece:
    """A run of characters of the rendered prompt, or the slot of an image.

    Args:
        kind: Where it comes from. `template` is the model's template, which may hold special tokens. `prompt` is a
            system text or a suffix, plain text that is never truncated. `text` is the item's own text, plain text that
            is truncated if too long. `image` is the slot of the item's next picture, and `marker` an image token that
            stands for no picture.
        text: Its characters; empty for image and marker.
    """

    kind: Kind
    text: str = ""


@dataclass(frozen=True)
class Prompt:
    """Both levels of the prompt for each role.

    Args:
        system: The level-1 text of each role; empty or absent for none.
        suffix: The level-2 text of each role and modality, which follows the item's own text. An item with a picture
            is of modality image.
        convention: `native` or `reference`; the module says what they decide.
        instruction_stop: Text to append to an item's instruction that does not end in punctuation, such as a full stop.
            If set, white space around an instruction is removed as well, and an empty one leaves the system text.
        picture_break: Whether a line break at the start of a text that follows a picture is kept.
    """

    system: Mapping[Role, str] = field(default_factory=dict)
    suffix: Mapping[Role, Mapping[Modality, str]] = field(default_factory=dict)
    convention: Convention = "native"
    instruction_stop: str = ""
    picture_break: bool = True

    def describe(self) -> dict[str, Any]:
        """Return plain values that decide a rendering, for fingerprints and checkpoints.

        The last two fields are left out at their defaults: fingerprints from before they existed stay valid.
        """
        suffix = {role: dict(texts) for role, texts in self.suffix.items()}
        described = {"system": dict(self.system), "suffix": suffix, "convention": self.convention}
        if self.instruction_stop:
            described["instruction_stop"] = self.instruction_stop
        if not self.picture_break:
            described["picture_break"] = False
        return described


Template = Callable[[str, Sequence[Piece]], list[Piece]]  # (system text, pieces of the user's turn) -> all pieces


def render(item: Item, role: Role, prompt: Prompt, template: Template) -> tuple[Piece, ...]:
    """Return the pieces of an item in a role; `rendered_text` shows them as one string.

    Source: arXiv 2508.00955, section 3.2, and the strings of the reference code, byte for byte. Under `reference`, a
    query without a system text has the pieces template `<|im_start|>user\\n`, text `a red circle`, prompt `\\nIn one
    word:`, template `<|im_end|>\\n<|im_start|>assistant\\n`.
    """
    modality: Modality = "image" if item.pictures else "text"
    user = _picture_turn(item, prompt) if item.pictures else _text_turn(item, prompt.convention)
    if suffix := prompt.suffix.get(role, {}).get(modality, ""):
        user.append(Piece("prompt", suffix))
    pieces = template(_system_text(item, role, prompt), user)
    return tuple(piece for piece in pieces if piece.kind in ("image", "marker") or piece.text)


def rendered_text(pieces: Sequence[Piece], image_token: str) -> str:
    """Return pieces as one string, with one image token for each slot."""
    return "".join(image_token if piece.kind in ("image", "marker") else piece.text for piece in pieces)


def _system_text(item: Item, role: Role, prompt: Prompt) -> str:
    """Return the level-1 text, or the item's own instruction in its place."""
    system, stop = prompt.system.get(role, ""), prompt.instruction_stop
    if item.instruction is None:
        return system
    if not stop:
        return item.instruction
    instruction = item.instruction.strip()
    if instruction and not unicodedata.category(instruction[-1]).startswith("P"):
        instruction += stop
    return instruction or system


def _picture_turn(item: Item, prompt: Prompt) -> list[Piece]:
    """Return the user's turn of an item with pictures: its texts and image slots, in order."""
    pieces: list[Piece] = []
    for part in item.parts:
        if not isinstance(part, str):
            pieces.append(Piece("image"))
        elif pieces and pieces[-1].kind == "image" and not prompt.picture_break:
            pieces.append(Piece("text", part.removeprefix("\n")))
        else:
            pieces.append(Piece("text", part))
    return pieces


def _text_turn(item: Item, convention: Convention) -> list[Piece]:
    """Return the user's turn of an item without pictures: its texts.

    An image marker in them stays as a bare image token in the reference convention, and is dropped in `native`.
    """
    pieces: list[Piece] = []
    for text in item.texts:
        for index, part in enumerate(text.split(IMAGE_MARKER)):
            if index and convention == "reference":
                pieces.append(Piece("marker"))
            pieces.append(Piece("text", part))
    return pieces


# --- templates ------------------------------------------------------------------------------------------------------


class ReferenceTemplate(NamedTuple):
    """What surrounds the texts in the reference convention."""

    start: str
    system: tuple[str, str]  # before and after the system text; left out if there is none
    user: tuple[str, str]  # before and after the item's own text with its suffix


_CHATML = ReferenceTemplate(
    start="",
    system=("<|im_start|>system\n", "<|im_end|>\n"),
    user=("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"),
)
_MISTRAL = ReferenceTemplate(start="[INST] ", system=("", "\n"), user=("", " [/INST]"))
REFERENCE_TEMPLATES = {"qwen2_vl": _CHATML, "qwen2_5_vl": _CHATML, "llava_next": _MISTRAL}  # by model type


def reference_template(model_type: str) -> Template:
    """Return the paper's template of a model family."""
    if model_type not in REFERENCE_TEMPLATES:
        known = ", ".join(sorted(REFERENCE_TEMPLATES))
        raise UserError(
            f"prompt.convention=reference is not defined for models of type {model_type!r}, only for {known}; "
            "use prompt.convention=native"
        )
    start, around_system, around_user = REFERENCE_TEMPLATES[model_type]

    def surround(texts: tuple[str, str], pieces: Sequence[Piece]) -> list[Piece]:
        return [Piece("template", texts[0]), *pieces, Piece("template", texts[1])]

    def template(system: str, user: Sequence[Piece]) -> list[Piece]:
        level_1 = surround(around_system, [Piece("prompt", system)]) if system else []
        return [Piece("template", start), *level_1, *surround(around_user, user)]

    return template


def chat_template(apply: Callable[[list[dict[str, Any]]], str], image_token: str) -> Template:
    """Return a model's own chat template.

    1. Write the messages with a placeholder for each text, "\\ue000" + its number + "\\ue001". The white space around a
       text stays around its placeholder, so that templates that trim it do the same as with the text.
    2. Have the template render them to one string.
    3. Split the string at placeholders and image tokens, and put the texts back. Nothing in a text can be taken for a
       special token of the template, as the template never sees it.

    Args:
        apply: Renders messages to a string, generation prompt included.
        image_token: What the template writes into an image's slot.
    """

    def template(system: str, user: Sequence[Piece]) -> list[Piece]:
        texts: list[Piece] = []
        messages: list[dict[str, Any]] = []
        if system:
            messages.append({"role": "system", "content": _content([Piece("prompt", system)], texts)})
        messages.append({"role": "user", "content": _content(user, texts)})
        pieces: list[Piece] = []
        for part in re.split(f"(\ue000\\d+\ue001|{re.escape(image_token)})", apply(messages)):
            if part == image_token:
                pieces.append(Piece("image"))
            elif part.startswith("\ue000"):
                pieces.append(texts[int(part[1:-1])])
            else:
                pieces.append(Piece("template", part))
        _check_complete(pieces, [*texts, *(piece for piece in user if piece.kind == "image")])
        return pieces

    return template


def _content(pieces: Sequence[Piece], texts: list[Piece]) -> list[dict[str, str]]:
    """Return the content of a message, with placeholders; adds the texts that they stand for to `texts`.

    Neighbouring texts are one entry, so that a template that trims leaves the white space between them.
    """

    def placeholder(piece: Piece) -> str:
        core = piece.text.strip()
        name = f"\ue000{len(texts)}\ue001"
        texts.append(Piece(piece.kind, core))
        return piece.text.replace(core, name, 1) if core else piece.text + name

    content: list[dict[str, str]] = []
    for is_image, run in groupby(pieces, key=lambda piece: piece.kind == "image"):
        if is_image:
            content += [{"type": "image"} for _ in run]
        else:
            content.append({"type": "text", "text": "".join(map(placeholder, run))})
    return content


def _check_complete(pieces: Sequence[Piece], expected: Sequence[Piece]) -> None:
    """Raise `UserError` if a template dropped a text or an image, as those without a system role do."""
    missing = [piece for piece in expected if piece.kind != "image" and piece not in pieces]
    wanted, written = (sum(piece.kind == "image" for piece in side) for side in (expected, pieces))
    if missing or wanted != written:
        lost = f"the text {missing[0].text[:60]!r}" if missing else f"{wanted - written} of {wanted} image slots"
        raise UserError(
            f"the model's chat template drops {lost}; choose a prompt that it can express (prompt=suffix has no "
            "system text) or another model"
        )
