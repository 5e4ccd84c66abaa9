"""Identifiers are nouns and verbs of the field: what a name holds, not a pronoun for it."""

import ast

import pytest

from gen2embed.config.presets import PACKAGE

PRONOUNS = {
    *("its", "them", "both", "one", "other", "every", "whole", "what", "of"),
    *("said", "told", "made", "given", "found", "there", "here"),
}
PROTOCOLS = {
    "__eq__",
    "__ne__",
    "__lt__",
    "__le__",
    "__gt__",
    "__ge__",
    "__add__",
}  # Python calls their operand `other`
SCRIPTS = [PACKAGE.parent / f"{name}.py" for name in ("train", "mine", "eval")]


def pronouns(source: str) -> list[str]:
    """Return the forbidden names that a source binds, of whatever kind."""
    tree = ast.parse(source)
    operands = {
        argument
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name in PROTOCOLS
        for argument in node.args.args
    }
    names = [(node.lineno, name(node)) for node in ast.walk(tree) if hasattr(node, "lineno") and node not in operands]
    return [f"line {line}: {bound}" for line, bound in names if bound in PRONOUNS]


def name(node: ast.AST) -> str | None:
    """Return the name that a node binds, if it binds one."""
    match node:
        case ast.Name(ctx=ast.Store(), id=bound) | ast.Attribute(ctx=ast.Store(), attr=bound) | ast.arg(arg=bound):
            return bound
        case ast.FunctionDef(name=bound) | ast.AsyncFunctionDef(name=bound) | ast.ClassDef(name=bound):
            return bound
        case ast.ExceptHandler(name=bound) | ast.MatchAs(name=bound) | ast.MatchStar(name=bound):
            return bound
        case ast.MatchMapping(rest=bound) | ast.alias(asname=bound):
            return bound
    return None


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_identifiers_name_what_they_hold(path):
    assert not pronouns(path.read_text())


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_identifiers_of_the_scripts_too(path):
    assert not pronouns(path.read_text())


@pytest.mark.parametrize(
    "source",
    [
        "its = 1",
        "a, (b, *its) = x",
        "self.its = 1",
        "its: int = 1",
        "class C:\n    its: int",
        "def its(): ...",
        "async def its(): ...",
        "class its: ...",
        "def f(its): ...",
        "def f(*, its=1): ...",
        "def f(*its): ...",
        "lambda its: 1",
        "[its for its in x]",
        "for its in x: ...",
        "with x as its: ...",
        "try: ...\nexcept E as its: ...",
        "import x as its",
        "from x import y as its",
        "if (its := x): ...",
        "match x:\n    case [its, *y]: ...",
        "match x:\n    case {'a': 1, **its}: ...",
        "def f(other): ...",
    ],
)
def test_the_test_sees_names(source):
    assert pronouns(source)


@pytest.mark.parametrize(
    "source", ["f(its=1)", "its.x", "x = its", "'its'", "class C:\n    def __eq__(self, other): ..."]
)
def test_the_test_does_not_see_uses(source):
    assert not pronouns(source)
