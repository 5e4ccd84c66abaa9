"""Tell how to quote a setting that Hydra cannot read: in quotes, inside of the quotes of the shell."""

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
    """Return the message for a setting that Hydra cannot read, with the form to type; None for other errors."""
    if isinstance(error, ValueError) and "Config group override must be" in str(error):
        return "a group takes the name of a choice, and a setting gives it a number; write GROUP.KEY=VALUE for one key"
    if isinstance(error, OverrideParseException):
        return unreadable(str(error.override))
    if not isinstance(error, HydraException):
        return None
    ambiguous = re.search(r"Ambiguous value for argument '(.*)'", str(error))
    return several_values(ambiguous[1]) if ambiguous else None


def unreadable(override: str) -> str:
    """Return the message for a setting that Hydra cannot parse, with the form to type in its place."""
    if "=" not in override:
        return f"the argument {shown(override)} is no setting (missing EQUAL); write KEY=VALUE, as in seed=1"
    if len(override) <= SHOWN and (form := quoted(override)):
        return f"the setting {shown(override)} needs quotes inside of the shell's; type {form}"
    return f"""the setting {shown(override)} cannot be read; check the key, and quote the value: 'key="a b"'"""


def several_values(override: str) -> str:
    """Return the message for a setting with commas in a run that is no sweep."""
    key, _, value = override.partition("=")
    text, listing = quoted(override), shlex.quote(f"{key}=[{value}]")
    if len(override) > SHOWN or text is None:
        text, listing = f"""'{key}="..."'""", f"'{key}=[...]'"
    return (
        f"the setting {shown(override)} has a comma: type {text} for one text, {listing} for a list, or -m before the "
        "settings for a sweep"
    )


def quoted(override: str) -> str | None:
    """Return a setting to type in a shell, with a text or a list of texts as value; None if quotes do not help."""
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
    """Return the end of a message, how to write a value as text; "" if a text would not be valid either.

    Args:
        value: The value that was refused.
        path: Its dotted key.
        takes: Whether a value is valid at that key.
    """
    for texts in (_texts(value), [_texts(value)]):
        if texts != value and takes(texts):
            plain = re.fullmatch(r"[\w ,./-]*", "".join(texts))
            quote = repr if plain else _in_quotes
            form = f"[{','.join(map(quote, texts))}]" if isinstance(texts, list) else quote(texts)
            return "; for texts write " + (f'"{path}={form}"' if plain else shlex.quote(f"{path}={form}"))
    return ""


def _texts(value: Any) -> Any:
    """Return a value with numbers and booleans as texts."""
    if isinstance(value, list):
        return [_texts(part) for part in value]
    return str(value).lower() if isinstance(value, bool) else str(value) if isinstance(value, int | float) else value


def _in_quotes(text: str) -> str:
    quote = '"' if '"' not in text else "'"
    escaped = re.sub(rf"(\\*)({quote}|$)", lambda match: match[1] * 2 + ("\\" + quote if match[2] else ""), text)
    return f"{quote}{escaped}{quote}"


def _parsed(override: str) -> Any:
    """Return the value that Hydra reads of a setting; None if it cannot."""
    try:
        return OverridesParser.create().parse_override(override).value()
    except HydraException:
        return None
