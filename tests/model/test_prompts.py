"""Rendering: the strings, byte for byte, and where each character may come from."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from gen2embed.config.presets import load_preset
from gen2embed.model.prompts import Prompt, chat_template, reference_template, render, rendered_text
from gen2embed.types import Item
from gen2embed.utils.errors import UserError

SYSTEM = "Given an image, summarize the provided image in one word. Given only text, describe the text in one word."
PICTURE = Image.new("RGB", (28, 28))
REFERENCE = reference_template("qwen2_vl")


def shown(item, role, name, convention="reference"):
    prompt = load_preset("prompt", name)
    prompt = Prompt(prompt.system, prompt.suffix, convention)
    return rendered_text(render(item, role, prompt, REFERENCE), "<|image_pad|>")


def chat(system, user):
    head = f"<|im_start|>system\n{system}<|im_end|>\n" if system else ""
    return f"{head}<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n"


TEXT_SUFFIX = "\nRepresent the given text in one word."
IMAGE_SUFFIX = "\nRepresent the given text/image in one word."


@pytest.mark.parametrize(
    ("text", "image", "role", "name", "expected"),
    [
        ("a dog", None, "query", "hierarchical", chat(SYSTEM, "a dog" + TEXT_SUFFIX)),
        ("a dog", None, "candidate", "hierarchical", chat(SYSTEM, "a dog")),
        ("a dog", None, "query", "system", chat(SYSTEM, "a dog")),
        ("a dog", None, "query", "suffix", chat("", "a dog" + TEXT_SUFFIX)),
        ("a dog", None, "query", "none", chat("", "a dog")),
        ("<|image_1|>\nwhat?", PICTURE, "query", "hierarchical", chat(SYSTEM, "<|image_pad|>\nwhat?" + IMAGE_SUFFIX)),
        ("<|image_1|>", PICTURE, "candidate", "hierarchical", chat(SYSTEM, "<|image_pad|>")),
        ("", PICTURE, "query", "suffix", chat("", "<|image_pad|>" + IMAGE_SUFFIX)),
        ("what?", PICTURE, "candidate", "none", chat("", "<|image_pad|>\nwhat?")),
        (
            "see <|image_1|> and <|image_1|>",
            PICTURE,
            "candidate",
            "none",
            chat("", "see <|image_pad|> and <|image_1|>"),
        ),
    ],
)
def test_reference_strings(text, image, role, name, expected):
    assert shown(Item.create(text, image), role, name) == expected


def test_marker_without_picture():
    item = Item.create("<|image_1|>\nwhich?")
    assert shown(item, "query", "none", "reference") == chat("", "<|image_pad|>\nwhich?")
    assert shown(item, "query", "none", "native") == chat("", "\nwhich?")
    assert shown(item, "query", "suffix", "reference").endswith(chat("", TEXT_SUFFIX)[len("<|im_start|>user\n") :])


def test_several_pictures_and_instruction():
    item = Item(
        ("first ", *Item.create("", PICTURE).parts, " then ", *Item.create("", PICTURE).parts), instruction="Find it."
    )
    assert shown(item, "query", "system") == chat("Find it.", "first <|image_pad|> then <|image_pad|>")


LLAVA = reference_template("llava_next")


@pytest.mark.parametrize(
    ("item", "name", "expected"),
    [
        (Item.create("a dog"), "hierarchical", f"[INST] {SYSTEM}\na dog{TEXT_SUFFIX} [/INST]"),
        (Item.create("<|image_1|>\nwhat?", PICTURE), "suffix", f"[INST] <image>\nwhat?{IMAGE_SUFFIX} [/INST]"),
        (Item.create("a dog"), "none", "[INST] a dog [/INST]"),
    ],
)
def test_reference_strings_of_llava_next(item, name, expected):
    assert rendered_text(render(item, "query", load_preset("prompt", name), LLAVA), "<image>") == expected


@pytest.mark.parametrize(
    ("instruction", "expected"),
    [
        (None, "Represent the user's input."),
        ("", "Represent the user's input."),
        (" \n", "Represent the user's input."),
        (" Find it \n", "Find it."),
        ("Find it!", "Find it!"),
        ("Find it。", "Find it。"),
    ],
)
def test_an_instruction_gets_its_stop(instruction, expected):
    item = Item.create(" what?", PICTURE, instruction)
    shown = rendered_text(
        render(item, "query", load_preset("prompt", "qwen3_vl_embedding"), REFERENCE), "<|image_pad|>"
    )
    assert shown == chat(expected, "<|image_pad|> what?")


def test_without_the_stop_an_instruction_is_what_it_is():
    prompt = load_preset("prompt", "system")
    for instruction in ("", " Find it \n"):
        item = Item.create("what?", instruction=instruction)
        assert rendered_text(render(item, "query", prompt, REFERENCE), "") == chat(instruction, "what?")


@pytest.mark.parametrize("name", ["hierarchical", "none", "qwen3_vl_embedding"])
def test_a_description_makes_the_prompt_again(name):
    prompt = load_preset("prompt", name)
    assert Prompt(**prompt.describe()) == prompt
    new = {"instruction_stop", "picture_break"}
    assert (prompt.describe().keys() >= new) == (name == "qwen3_vl_embedding")  # older cards say the same as before
    assert prompt.describe().keys() - new == {"system", "suffix", "convention"}


def test_texts_side_by_side_are_one_to_a_template_that_trims():
    trimming = chat_template(lambda messages: "".join(part["text"].strip() for part in messages[-1]["content"]), "<i>")
    shown = rendered_text(render(Item.create(" a dog"), "query", load_preset("prompt", "suffix"), trimming), "<i>")
    assert shown == "a dog" + TEXT_SUFFIX


def test_an_unknown_family_has_no_reference():
    with pytest.raises(UserError, match=r"not defined for models of type 'gpt'.*llava_next, qwen2_5_vl, .*native"):
        reference_template("gpt")


def qwen_chat(messages):
    """Qwen2-VL's template, which inserts a system message of its own, in plain Python."""
    if messages[0]["role"] != "system":
        messages = [{"role": "system", "content": [{"text": "You are a helpful assistant."}]}, *messages]
    bodies = ["".join(part.get("text", "<s><|image_pad|></s>") for part in m["content"]) for m in messages]
    turns = [f"<|im_start|>{m['role']}\n{body}<|im_end|>\n" for m, body in zip(messages, bodies, strict=True)]
    return "".join(turns) + "<|im_start|>assistant\n"


NATIVE = chat_template(qwen_chat, "<|image_pad|>")


def test_native_uses_the_chat_template():
    item = Item.create("what?", PICTURE)
    hierarchical = rendered_text(render(item, "query", load_preset("prompt", "hierarchical"), NATIVE), "<|image_pad|>")
    assert hierarchical == chat(SYSTEM, "<s><|image_pad|></s>\nwhat?" + IMAGE_SUFFIX)
    bare = rendered_text(render(item, "query", load_preset("prompt", "none"), NATIVE), "<|image_pad|>")
    assert bare == chat("You are a helpful assistant.", "<s><|image_pad|></s>\nwhat?")


def test_a_template_that_trims_trims_the_item():
    trimming = chat_template(lambda messages: "[" + messages[-1]["content"][0]["text"].strip() + "]", "<i>")
    assert (
        rendered_text(render(Item.create("  a dog \n"), "query", load_preset("prompt", "none"), trimming), "<i>")
        == "[a dog]"
    )


def test_a_template_that_drops_is_an_error():
    deaf = chat_template(lambda messages: messages[-1]["content"][0]["text"], "<i>")
    with pytest.raises(UserError, match="drops the text 'Given an image"):
        render(Item.create("a"), "query", load_preset("prompt", "system"), deaf)
    with pytest.raises(UserError, match="drops 1 of 1 image slots"):
        render(Item.create("", PICTURE), "query", load_preset("prompt", "none"), chat_template(lambda m: "x", "<i>"))


TEXTS = st.text(min_size=1) | st.sampled_from(
    ["<|im_end|>", "<|image_pad|>", "<|image_1|>", "\ue0000\ue001", "{SYSTEM}"]
)


@given(st.lists(TEXTS, min_size=1, max_size=4), st.booleans(), st.sampled_from(["query", "candidate"]))
def test_the_items_own_text_is_never_template(texts, with_picture, role):
    """Whatever a text holds, it comes back as text, but for white space at its ends; only slots are slots."""
    text = "".join(texts)
    item = Item.create(text, PICTURE if with_picture else None)
    prompt = load_preset_once("hierarchical")
    for template in (REFERENCE, NATIVE):
        pieces = render(item, role, prompt, template)
        assert sum(piece.kind == "image" for piece in pieces) == with_picture
        own = "".join(piece.text for piece in pieces if piece.kind == "text")
        expected = text.replace("<|image_1|>", "", 1 if with_picture else -1)
        assert "".join(own.split()) == "".join(expected.split())


PRESETS = {}


def load_preset_once(name):
    return PRESETS.setdefault(name, load_preset("prompt", name))


def test_hierarchical_is_system_and_suffix():
    hierarchical, system, suffix = (load_preset("prompt", name) for name in ("hierarchical", "system", "suffix"))
    assert hierarchical.system == system.system == {"query": SYSTEM, "candidate": SYSTEM}
    assert hierarchical.suffix == suffix.suffix == {"query": {"text": TEXT_SUFFIX, "image": IMAGE_SUFFIX}}
    assert {prompt.convention for prompt in (hierarchical, system, suffix)} == {"native"}
