"""Imports go one way: a module imports its own layer's siblings in a package, or lower layers."""

import ast
import importlib
import subprocess
import sys

import pytest

import gen2embed
from gen2embed.config.presets import PACKAGE

ORDER = (  # a folder imports itself and the folders before it
    "utils",
    "outputs",
    "types",
    "shipped",
    "config",
    "data",
    "world",
    "search",
    "encoding",
    "model",
    "mining",
    "evaluation",
    "training",
    "reports",
    "runs",
    "export",
    "cli",
    "__main__",
)
LEVEL = {name: level for level, name in enumerate(ORDER)}
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
    folder = path.relative_to(PACKAGE).with_suffix("").parts[0]
    for name in imported(path.read_text()):
        assert name in LEVEL, f"{name} has no place in the order"
        assert LEVEL[name] <= LEVEL[folder], f"{folder} imports {name}"


def test_no_folder_is_without_a_place():
    entries = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or any(path.rglob("*.py"))}
    assert entries - {"__init__", "tiny"} == set(ORDER)


@pytest.mark.parametrize("path", sorted((PACKAGE / "shipped").glob("*.py")), ids=lambda path: path.name)
def test_what_exports_carry_runs_without_us(path):
    assert not imported(path.read_text())


def test_the_test_sees_imports():
    assert imported("from gen2embed.runs.results import x\nimport gen2embed.encoding.store") == {"runs", "encoding"}


def test_only_config_and_runs_read_configs():
    readers = {path.relative_to(PACKAGE).parts[0] for path in MODULES if "omegaconf" in path.read_text()}
    assert readers <= {"config", "runs", "reports"}


def test_sizes():
    for path in MODULES:
        assert len(path.read_text().splitlines()) <= 250, path


# The packages that take long to import, of those that are installed; names that python itself has are left out.
HEAVY = {
    *("torch", "transformers", "tokenizers", "peft", "accelerate", "datasets", "huggingface_hub", "safetensors"),
    *("lightning", "torchmetrics", "wandb", "deepspeed", "mteb", "sentence_transformers", "faiss"),
    *("numpy", "scipy", "sklearn", "pandas", "pyarrow", "matplotlib", "PIL", "rich", "jinja2", "yaml"),
    *("hydra", "omegaconf", "pydantic", "jaxtyping", "httpx", "fsspec"),
}
API = {"torch", "numpy", "PIL", "jaxtyping", "rich", "tokenizers"}  # what encoding itself is made of


def loaded_by(code):
    """Which heavy packages a fresh process has imported after `code`, whether or not that exits; and our modules."""
    program = f"import sys\ntry:\n    {code}\nexcept SystemExit:\n    pass\nprint(*sys.modules, file=sys.stderr)"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    names = set(ended.stderr.splitlines()[-1].split())
    return names & HEAVY, {name for name in names if name.split(".")[0] == "gen2embed"}


FOLDERS = ["gen2embed", *sorted(f"gen2embed.{path.parent.name}" for path in PACKAGE.glob("*/__init__.py"))]
NESTED = sorted(".".join(path.relative_to(PACKAGE.parent).parent.parts) for path in PACKAGE.glob("*/*/__init__.py"))


def test_importing_folders_imports_none_of_their_modules():
    heavy, ours = loaded_by(f"import {', '.join(FOLDERS + NESTED)}; gen2embed.__version__")
    assert not heavy
    assert ours == {*FOLDERS, *NESTED}


@pytest.mark.parametrize("folder", FOLDERS + NESTED)
def test_folders_say_what_they_hold(folder):
    assert importlib.import_module(folder).__doc__


@pytest.mark.parametrize(
    "folder", [name for name in FOLDERS + NESTED if hasattr(importlib.import_module(name), "__all__")]
)
def test_re_exports_are_there(folder):
    package = importlib.import_module(folder)
    for name in package.__all__:
        assert getattr(package, name).__module__.startswith(f"{folder}.")


def test_importing_the_embedder_does_not_import_what_loads_and_trains():
    """transformers, peft and Lightning take two thirds of the time, and nobody needs them before there is a model."""
    heavy, ours = loaded_by("from gen2embed import Embedder, Item, UserError")
    assert heavy == API
    assert "gen2embed.model.embedder" in ours


@pytest.mark.parametrize(
    "arguments", [["--help"], ["embedd"], ["search", "--help"], ["embed", "x", "--output", "y", "--rolle", "query"]]
)
def test_help_and_wrong_arguments_import_no_library(arguments):
    heavy, ours = loaded_by(f"from gen2embed.__main__ import main; main({arguments})")
    assert not heavy
    assert "gen2embed.cli.embed" in ours


@pytest.mark.parametrize("script", ["train.py", "mine.py", "eval.py"])
def test_help_of_the_scripts_waits_for_no_heavy_library(script, monkeypatch):
    monkeypatch.chdir(PACKAGE.parent)
    heavy, _ = loaded_by(f"import runpy; sys.argv = ['', '--help']; runpy.run_path('{script}', run_name='__main__')")
    assert heavy <= {"hydra", "omegaconf", "pydantic", "yaml", "rich", "huggingface_hub", "PIL", "fsspec", "httpx"}
    assert "hydra" in heavy


@pytest.mark.parametrize("name", gen2embed.__all__)
def test_the_public_names_are_there(name):
    assert name in dir(gen2embed)
    with pytest.raises(AttributeError, match="Embeder"):
        gen2embed.Embeder  # noqa: B018
