"""docs/troubleshooting.md: every message on it is one that the package says, so that the page cannot go stale."""

import ast
import re

import pytest
from conftest import REPOSITORY

PAGE = (REPOSITORY / "docs/troubleshooting.md").read_text()
ENTRY = re.compile(r"^\*\*`(?P<message>.+)`\*\*(?: \((?P<library>\w+)\))?\n(?P<text>\S.*)", re.MULTILINE)
ENTRIES = [found.groupdict() for found in ENTRY.finditer(PAGE)]
OURS = [entry["message"] for entry in ENTRIES if not entry["library"]]
SOURCES = [
    *(REPOSITORY / "gen2embed").rglob("*.py"),
    *(REPOSITORY / f"{name}.py" for name in ("train", "mine", "eval")),
]


def said(node):
    """A text of the source with … for what varies; None for what is no text."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return re.sub(r"%[sd]", "…", node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        sides = said(node.left), said(node.right)
        return None if sides == (None, None) else "".join(side or "…" for side in sides)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):  # f"...".rstrip()
        return said(node.func.value)
    return None


def messages(source):
    """Every text of a source outside of docstrings."""
    tree = ast.parse(source)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    return {text for node in ast.walk(tree) if id(node) not in docstrings and (text := said(node))}


SAID = set().union(*(messages(file.read_text()) for file in SOURCES))


def is_said(message, texts=SAID):
    """Whether a text has all of the message, in which … is anything, also what the page leaves out."""
    pattern = re.compile(".*".join(re.escape(part) for part in message.split("…")), re.DOTALL)
    return any(pattern.fullmatch(text) for text in texts)


def test_the_page_has_entries():
    assert PAGE.count("\n**`") == len(ENTRIES)  # each with its text below
    assert len(OURS) >= 40
    assert len(set(OURS)) == len(OURS)
    assert len(ENTRIES) - len(OURS) <= 6
    assert len(SAID) > 500


@pytest.mark.parametrize("message", OURS)
def test_a_message_is_in_the_source(message):
    assert len(re.sub(r"[^a-z]", "", message)) >= 8  # enough to be looked for
    assert is_said(message)


def test_a_stale_message_is_seen():
    source = 'raise UserError(f"the picture {path} does not exist; {hint}")'
    assert is_said("the picture … does not exist; …", messages(source))
    assert not is_said("the picture … is missing; …", messages(source))
    assert not is_said("the picture … does not exist", messages(source))
    assert not is_said("a docstring's text", messages('def f():\n    "a docstring\'s text"'))
