"""Both levels of a prompt as a chat template, for libraries that render messages by one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gen2embed.model.backbone import Backbone
from gen2embed.model.prompts import REFERENCE_TEMPLATES, Prompt
from gen2embed.utils.choices import ROLES
from gen2embed.utils.errors import UserError

ITEMS = Path(__file__).with_name("items.jinja")  # messages as our items
REFERENCE = Path(__file__).with_name("reference.jinja")  # what the reference convention makes of them


def chat_template(prompt: Prompt, backbone: Backbone, *, standalone: bool) -> str:
    """Return a chat template that renders a user's message as our item.

    Its variable `task` names the role: `query`, or anything else for a candidate. It arranges the messages, and the
    model's own template renders them; under the reference convention, the paper's template does.

    Args:
        prompt: Both levels.
        backbone: The model with its own template.
        standalone: Whether the template also adds level 1 where there is no system message. Otherwise the library does
            that, and the template is the model's own unless the variable `embed` is set, so that the folder still is
            a checkpoint.

    Raises:
        UserError: For a model that has no chat template, or several.
    """
    values: dict[str, Any] = {
        "suffixes": {role: {m: prompt.suffix.get(role, {}).get(m, "") for m in ("text", "image")} for role in ROLES},
        "systems": {role: prompt.system.get(role, "") if standalone else "" for role in ROLES},
        "line_break": "\n" if prompt.picture_break else "",
    }
    reference = prompt.convention == "reference"
    if reference:
        values |= {"around": REFERENCE_TEMPLATES[backbone.model_type]._asdict()}
        values |= {"image_token": backbone.processor.image_token}
    elif not isinstance(backbone.processor.chat_template, str):
        raise UserError(f"{backbone.name} has no chat template, or several; set the one to use in its tokenizer")
    # JSON is a literal of Jinja, but for escapes beyond ASCII and for null, which is not among the values.
    lines = [f"{{%- set {key} = {json.dumps(value, ensure_ascii=False)} -%}}" for key, value in values.items()]
    lines.append(ITEMS.read_text().strip())
    if reference:
        return "\n".join([*lines, REFERENCE.read_text().strip()])
    if not standalone:
        lines = ["{%- if embed is defined -%}", *lines, "{%- endif -%}"]
    # Templates are compiled with trim_blocks, so that the line break after this block is not part of the output.
    lines.append("{%- set messages = shaped.messages if shaped is defined else messages %}")
    return "\n".join([*lines, backbone.processor.chat_template])
