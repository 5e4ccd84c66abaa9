"""Writes docs/configuration.md: every group, choice and key of conf/, from the files and their comments.

    python docs/configuration.py

tests/test_docs.py holds that the page is what this would write.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from hydra.utils import get_object

PAGE = Path(__file__).with_suffix(".md")
CONF = Path(__file__).parent.parent / "conf"
ENTRIES = ("train", "mine", "eval")
HEAD = """\
# Configuration

<!-- Written by `python docs/configuration.py` from conf/. -->

This page lists every setting of `train.py`, `mine.py` and `eval.py`, by the file of `conf/` that has it.

- `GROUP=CHOICE` chooses a file, and `KEY=VALUE` sets a key.
- `+KEY=VALUE` sets a key that the called class takes and the file leaves out.
- `python train.py --cfg job` shows the configuration of a command.
- A misspelt name is an error that lists the valid names, before anything is loaded.
"""


@dataclass(frozen=True)
class Key:
    """A key of a yaml file: its value as it is written, and its comment."""

    name: str
    value: str
    meaning: str


@dataclass(frozen=True)
class Choice:
    """A yaml file of a group."""

    name: str
    head: list[str]
    package: str
    keys: list[Key] = field(repr=False)
    parents: list[str]

    @property
    def target(self) -> str | None:
        return next((key.value for key in self.keys if key.name == "_target_"), None)


def read(path: Path) -> Choice:
    """A yaml file with its comments: those at its top, beside a key, or in the lines before it."""
    lines = path.read_text().splitlines()
    package, head = path.parent.name, list[str]()
    for line in lines:
        if found := re.fullmatch(r"# @package (\S+)", line):
            package = "" if found[1] == "_global_" else found[1]
        elif line.startswith("#"):
            head.append(line.removeprefix("#").strip())
        else:
            break
    node = yaml.compose("\n".join(lines)) if lines else None
    keys = list(_keys(node, lines)) if isinstance(node, yaml.MappingNode) else []
    parents = [key.value for key in keys if key.name == "defaults"]
    return Choice(path.stem, head, package, [key for key in keys if key.name != "defaults"], parents)


def _keys(node: yaml.MappingNode, lines: list[str], prefix: str = "") -> Iterator[Key]:
    for name, value in node.value:
        path = prefix + name.value
        deeper = isinstance(value, yaml.MappingNode) and not value.flow_style
        block = isinstance(value, yaml.SequenceNode) and not value.flow_style
        end = name.end_mark if deeper or block else value.end_mark
        beside = re.search(r"#\s*(.*)$", lines[end.line][end.column :])
        meaning = beside[1] if beside else _above(lines, name.start_mark.line)
        if name.value == "defaults":
            yield Key("defaults", ", ".join(map(_default, value.value)), "")
        elif deeper:
            if meaning:
                yield Key(path, "", meaning)
            yield from _keys(value, lines, path + ".")
        else:
            start = value.start_mark
            text = lines[start.line][start.column : value.end_mark.column] if start.line == value.end_mark.line else "…"
            yield Key(path, text, meaning)


def _default(node: yaml.Node) -> str:
    if isinstance(node, yaml.MappingNode):
        return "; ".join(f"{key.value}={value.value}" for key, value in node.value)
    return str(node.value)


def _above(lines: list[str], at: int) -> str:
    """The comment in the lines before a key, unless it is the head of the file."""
    said: list[str] = []
    for line in reversed(lines[:at]):
        if not line.strip().startswith("#"):
            return " ".join(said)
        said.insert(0, line.strip().removeprefix("#").strip())
    return ""


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for name in ENTRIES:
        entry = read(CONF / f"{name}.yaml")
        parts.append(f"## {name}.py\n")
        groups = [f"`{group}`" for group in entry.parents[0].split(", ") if group != "_self_"]
        parts.append(f"Groups, and their default choices: {', '.join(groups)}.\n")
        parts.append(_table(entry.keys))
    for folder in sorted(path for path in CONF.iterdir() if path.is_dir() and any(path.glob("*.yaml"))):
        parts += _group(folder.name, [read(path) for path in sorted(folder.glob("*.yaml"))])
    return "\n".join(parts)


def _group(name: str, choices: list[Choice]) -> Iterator[str]:
    yield f"## {name}\n"
    yield "| choice | what it is | builds on |\n| --- | --- | --- |"
    for choice in choices:
        yield f"| `{choice.name}` | {_cell(' '.join(choice.head))} | {_cell(', '.join(choice.parents))} |"
    yield ""
    for choice in choices:
        if not choice.keys:
            continue
        prefix = f"{choice.package}." if choice.package else ""
        yield f"### {name}={choice.name}\n"
        if choice.target:
            parents = [parent for parent in choices if parent.name in ", ".join(choice.parents).split(", ")]
            yield f"Calls `{choice.target}`{_further(choice, parents)}.\n"
        yield _table(
            [Key(prefix + key.name, key.value, key.meaning) for key in choice.keys if not key.name.endswith("_target_")]
        )


def _further(choice: Choice, parents: Sequence[Choice]) -> str:
    """What our own classes take beside what the file and those that it builds on name."""
    if not str(choice.target).startswith("gen2embed."):
        return ""
    parameters = inspect.signature(get_object(str(choice.target))).parameters.values()
    named = {key.name.partition(".")[0] for file in (choice, *parents) for key in file.keys}
    left = [its for its in parameters if its.name not in named and its.default is not inspect.Parameter.empty]
    said = ", ".join(f"`{its.name}={its.default!r}`" for its in left if len(repr(its.default)) < 60)
    return f", which also takes {said}" if said else ""


def _table(keys: list[Key]) -> str:
    if not keys:
        return ""
    rows = [f"| `{key.name}` | {_code(key.value)} | {_cell(key.meaning)} |" for key in keys]
    return "\n".join(["| key | value | meaning |", "| --- | --- | --- |", *rows, ""])


def _code(value: str) -> str:
    return f"`{value}`".replace("|", "\\|") if value else ""


def _cell(text: str) -> str:
    return re.sub(r"(https?://[^\s,;)]+[^\s,;).])", r"<\1>", text.replace("|", "\\|").replace("<", "&lt;"))


if __name__ == "__main__":
    PAGE.write_text(page())
