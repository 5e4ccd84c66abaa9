"""How a setting is typed that Hydra cannot read as it was: in quotes, and those quotes inside the shell's."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, OverrideParseException

from gen2embed.utils.content import SHOWN, shown

QUOTES = ("'", '"')


def explain_setting(error: BaseException) -> str | None:
    """Return the message for an error of Hydra's about a setting's form, with what to type; None for other errors."""
    if isinstance(error, OverrideParseException):
        return unreadable(str(error.override))
    several = (
        re.search(r"Ambiguous value for argument '(.*)'", str(error)) if isinstance(error, HydraException) else None
    )
    return several_values(several[1]) if several else None


def unreadable(override: str) -> str:
    """Return the message for a setting that Hydra cannot parse, with the form to type in its place."""
    if "=" not in override:
        return f"the argument {shown(override)} is no setting (missing EQUAL); settings are KEY=VALUE, as in seed=1"
    if len(override) <= SHOWN and (form := quoted(override)):
        return f"the setting {shown(override)} needs quotes, also inside of the shell's; type {form}"
    return f"""the setting {shown(override)} cannot be read; look at the key, and quote the value: 'key="a b"'"""


def several_values(override: str) -> str:
    """Return the message for a setting with commas in a run that is no sweep."""
    key, _, value = override.partition("=")
    one, several = quoted(override), shlex.quote(f"{key}=[{value}]")
    if len(override) > SHOWN or one is None:
        one, several = f"""'{key}="..."'""", f"'{key}=[...]'"
    return (
        f"the setting {shown(override)} has a comma: type {one} for one text, {several} for a list, or -m before the "
        "settings for a sweep"
    )


def quoted(override: str) -> str | None:
    """Return a setting as it is to be typed in a shell, its value as texts; None if quotes do not help."""
    key, _, value = override.partition("=")
    if value[:1] in QUOTES and value[-1:] == value[:1] and len(value) > 1:
        value = value[1:-1]
    if value.startswith("[") and value.endswith("]"):
        items = [item.strip() for item in value[1:-1].split(",")]
        wanted: Any = [item[1:-1] if item[:1] in QUOTES and item[-1:] == item[:1] else item for item in items]
        form = f"[{','.join(map(_in_quotes, wanted))}]"
    else:
        wanted, form = value, _in_quotes(value)
    return shlex.quote(f"{key}={form}") if _parsed(f"{key}={form}") == wanted else None


def as_texts(value: Any, path: str, takes: Callable[[Any], bool]) -> str:
    """Return how to write a value where texts are wanted, to end a message; "" if texts would not be taken either.

    takes: whether a value is valid there.
    """
    for texts in (_texts(value), [_texts(value)]):
        if texts != value and takes(texts):
            plain = re.fullmatch(r"[\w ,./-]*", "".join(texts))
            quote = repr if plain else _in_quotes
            form = f"[{','.join(map(quote, texts))}]" if isinstance(texts, list) else quote(texts)
            return "; for texts write " + (f'"{path}={form}"' if plain else shlex.quote(f"{path}={form}"))
    return ""


def _texts(value: Any) -> Any:
    if isinstance(value, list):
        return [_texts(part) for part in value]
    return str(value).lower() if isinstance(value, bool) else str(value) if isinstance(value, int | float) else value


def _in_quotes(text: str) -> str:
    quote = '"' if '"' not in text else "'"
    escaped = re.sub(rf"(\\*)({quote}|$)", lambda found: found[1] * 2 + ("\\" + quote if found[2] else ""), text)
    return f"{quote}{escaped}{quote}"


def _parsed(override: str) -> Any:
    try:
        return OverridesParser.create().parse_override(override).value()
    except HydraException:
        return None
