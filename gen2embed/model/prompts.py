"""Hierarchical prompts: what text a model reads for an item in a role.

Level 1 is a system text, level 2 a suffix to the query (arXiv 2508.00955, section 3). A prompt is rendered into
pieces that say where each character comes from, so that only the template's own special tokens count as such: the
same string typed by a user stays text.

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
    """A run of the rendered prompt.

    kind: template (may hold special tokens), prompt (plain, never cut), text (the item's own: plain, cut if too long),
    image (the slot of the item's next picture), marker (an image token that stands for no picture).
    """

    kind: Kind
    text: str = ""


@dataclass(frozen=True)
class Prompt:
    """Both levels of the prompt, for each role.

    system: per role the level-1 text; empty for none.
    suffix: per role and modality the level-2 text that follows the item's own; an item with a picture is of
        modality image.
    convention: see the module.
    instruction_stop: what follows an item's instruction that does not end in punctuation. With one, an instruction
        also loses the white space around it, and an empty one leaves the system text.
    picture_break: whether the line break between a picture and the text after it stays.
    """

    system: Mapping[Role, str] = field(default_factory=dict)
    suffix: Mapping[Role, Mapping[Modality, str]] = field(default_factory=dict)
    convention: Convention = "native"
    instruction_stop: str = ""
    picture_break: bool = True

    def describe(self) -> dict[str, Any]:
        """Plain values that decide a rendering, for fingerprints and checkpoints.

        The last two are in it where they are not the default, so that it says of a prompt what it said before them.
        """
        suffix = {role: dict(texts) for role, texts in self.suffix.items()}
        described = {"system": dict(self.system), "suffix": suffix, "convention": self.convention}
        if self.instruction_stop:
            described["instruction_stop"] = self.instruction_stop
        if not self.picture_break:
            described["picture_break"] = False
        return described


Template = Callable[[str, Sequence[Piece]], list[Piece]]  # (system text, the user's pieces) -> all pieces


def render(item: Item, role: Role, prompt: Prompt, template: Template) -> tuple[Piece, ...]:
    """Render an item in a role. Pure; `as_text` shows the result as one string.

    Source: arXiv 2508.00955, section 3.2, and the reference code's strings, byte for byte.
    """
    modality: Modality = "image" if item.pictures else "text"
    user = _user(item, prompt) if item.pictures else _markers(item, prompt.convention)
    if suffix := prompt.suffix.get(role, {}).get(modality, ""):
        user.append(Piece("prompt", suffix))
    return tuple(
        piece
        for piece in template(_system(item, role, prompt), user)
        if piece.kind in ("image", "marker") or piece.text
    )


def as_text(pieces: Sequence[Piece], image_token: str) -> str:
    """The rendered string, with one image token a slot."""
    return "".join(image_token if piece.kind in ("image", "marker") else piece.text for piece in pieces)


def _system(item: Item, role: Role, prompt: Prompt) -> str:
    system, stop = prompt.system.get(role, ""), prompt.instruction_stop
    if item.instruction is None:
        return system
    if not stop:
        return item.instruction
    instruction = item.instruction.strip()
    if instruction and not unicodedata.category(instruction[-1]).startswith("P"):
        instruction += stop
    return instruction or system


def _user(item: Item, prompt: Prompt) -> list[Piece]:
    pieces: list[Piece] = []
    for part in item.parts:
        if not isinstance(part, str):
            pieces.append(Piece("image"))
        elif pieces and pieces[-1].kind == "image" and not prompt.picture_break:
            pieces.append(Piece("text", part.removeprefix("\n")))
        else:
            pieces.append(Piece("text", part))
    return pieces


def _markers(item: Item, convention: Convention) -> list[Piece]:
    """Image markers without a picture: the reference leaves a literal image token there, `native` drops them."""
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
    system: tuple[str, str]  # before and after the system text; left out where there is none
    user: tuple[str, str]  # before and after the item's own text with its suffix


_CHATML = ReferenceTemplate(
    start="",
    system=("<|im_start|>system\n", "<|im_end|>\n"),
    user=("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"),
)
_MISTRAL = ReferenceTemplate(start="[INST] ", system=("", "\n"), user=("", " [/INST]"))
REFERENCE_TEMPLATES = {"qwen2_vl": _CHATML, "qwen2_5_vl": _CHATML, "llava_next": _MISTRAL}  # by model type


def reference_template(model_type: str) -> Template:
    """The paper's template of a model family."""
    if model_type not in REFERENCE_TEMPLATES:
        known = ", ".join(sorted(REFERENCE_TEMPLATES))
        raise UserError(
            f"prompt.convention=reference is not defined for models of type {model_type!r}, only for {known}; "
            "use prompt.convention=native"
        )
    start, around_system, around_user = REFERENCE_TEMPLATES[model_type]

    def around(texts: tuple[str, str], pieces: Sequence[Piece]) -> list[Piece]:
        return [Piece("template", texts[0]), *pieces, Piece("template", texts[1])]

    def template(system: str, user: Sequence[Piece]) -> list[Piece]:
        level_1 = around(around_system, [Piece("prompt", system)]) if system else []
        return [Piece("template", start), *level_1, *around(around_user, user)]

    return template


def chat_template(apply: Callable[[list[dict[str, Any]]], str], image_token: str) -> Template:
    """A model's own chat template.

    apply: renders messages to a string, generation prompt included. It sees a stand-in for every text, with the
    text's own white space around it (some templates trim), and the texts are put back afterwards: what they hold
    cannot be taken for the template's special tokens.
    """

    def template(system: str, user: Sequence[Piece]) -> list[Piece]:
        texts: list[Piece] = []

        def stand_in(piece: Piece) -> str:
            core = piece.text.strip()
            texts.append(Piece(piece.kind, core))
            said = f"\ue000{len(texts) - 1}\ue001"
            return piece.text.replace(core, said, 1) if core else piece.text + said

        def content(pieces: Sequence[Piece]) -> list[dict[str, str]]:
            """Texts side by side are one, so that a template that trims leaves the white space between them."""
            parts: list[dict[str, str]] = []
            for is_image, run in groupby(pieces, key=lambda piece: piece.kind == "image"):
                if is_image:
                    parts += [{"type": "image"} for _ in run]
                else:
                    parts.append({"type": "text", "text": "".join(map(stand_in, run))})
            return parts

        messages: list[dict[str, Any]] = []
        if system:
            messages.append({"role": "system", "content": content([Piece("prompt", system)])})
        messages.append({"role": "user", "content": content(user)})
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


def _check_complete(pieces: Sequence[Piece], wanted: Sequence[Piece]) -> None:
    """Some templates drop a role, or place pictures elsewhere: better known than embedded."""
    missing = [piece for piece in wanted if piece.kind != "image" and piece not in pieces]
    images = [sum(piece.kind == "image" for piece in side) for side in (wanted, pieces)]
    if missing or images[0] != images[1]:
        lost = (
            f"the text {missing[0].text[:60]!r}" if missing else f"{images[0] - images[1]} of {images[0]} image slots"
        )
        raise UserError(
            f"the model's chat template drops {lost}; choose a prompt that it can express (prompt=suffix has no "
            "system text) or another model"
        )
