"""Imports go one way: a module imports its own layer's siblings in a package, or lower layers."""

import ast
import subprocess
import sys

import pytest

from gen2embed.presets import PACKAGE

LAYERS = {
    0: ("types", "content", "log", "files", "products", "redaction", "shipped", "names"),
    1: (
        "prompts",
        "images",
        "metrics",
        "significance",
        "losses",
        "gradcache",
        "memory",
        "search",
        "peers",
        "preemption",
        "compression",
    ),
    2: ("data", "presets", "saha"),
    3: ("encoder", "sync"),
    4: ("evaluate", "lit", "miners", "mteb_encoder", "shortcuts", "tiny", "zero"),
    5: (
        "callbacks",
        "checkpoint",
        "logger",
        "resume",
        "report",
        "tables",
        "leaderboard",
        "config",
        "pins",
        "overrides",
        "runs",
        "reporting",
        "sweeps",
        "demo",
        "compare",
        "commands",
        "doctor",
        "rehearsal",
        "mining_report",
        "export",
        "eval_report",
        "pages",
        "targets",
    ),
    6: ("__main__",),
}
UNDER_TYPES = "content"  # which L0's types build on
LEVEL = {name: level for level, names in LAYERS.items() for name in names}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")


def imported(source: str) -> set[str]:
    """Top-level modules of gen2embed that a source imports."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("gen2embed"):
            parts = node.module.split(".")
            names |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("gen2embed.")}
    return names - {"__version__"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path):
    own = path.relative_to(PACKAGE).with_suffix("").parts[0]
    for name in imported(path.read_text()):
        assert name in LEVEL, f"{name} has no layer"
        assert LEVEL[name] < LEVEL[own] or name in (own, UNDER_TYPES) or (LEVEL[own] >= 5 and LEVEL[name] == 5), (
            f"{own} imports {name}"
        )


@pytest.mark.parametrize("path", sorted((PACKAGE / "shipped").glob("*.py")), ids=lambda path: path.name)
def test_what_exports_carry_runs_without_us(path):
    assert not imported(path.read_text())


def test_the_test_sees_imports():
    assert imported("from gen2embed.report import x\nimport gen2embed.encoder.store") == {"report", "encoder"}


def test_only_config_and_entry_points_read_configs():
    allowed = {"config.py", "presets.py", "reporting.py", "runs.py"}
    readers = {path.name for path in MODULES if "omegaconf" in path.read_text()}
    assert readers <= allowed


def test_sizes():
    for path in MODULES:
        assert len(path.read_text().splitlines()) <= 250, path


def test_the_python_api_does_not_load_what_trains():
    """Lightning takes two seconds to import, a quarter of all: who only embeds need not wait for it."""
    said = "import sys, gen2embed; print({'lightning', 'wandb', 'deepspeed', 'mteb'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True).stdout == "set()\n"
