"""What the README and the docs tell people to type, typed."""

import re
import shlex
import subprocess
import sys

import pytest
from conftest import REPOSITORY, TINY

PAGES = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
SMALL = ["data.queries=4", "bootstrap=10", "engine.store=null"]


def blocks(language):
    return [block for page in PAGES for block in re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)]


COMMANDS = sorted(
    {line.split("#")[0].strip() for block in blocks("bash") for line in block.splitlines() if line.strip()}
)
EVALS = [command for command in COMMANDS if command.startswith("python eval.py")]
MAKES = [command for command in COMMANDS if command.startswith("make ")]


def test_commands_are_found():
    assert len(EVALS) >= 6
    assert {"make demo", "make test"} <= set(MAKES)
    assert len(EVALS) + len(MAKES) + 1 == len(COMMANDS)  # and .venv/bin/pre-commit


@pytest.mark.parametrize("command", EVALS)
def test_eval_commands(run_script, command, world):
    """As written, but on the small world, and on the shipped weights where the command's own are a download away."""
    args = shlex.split(command)[2:]
    here = [arg for arg in args if not arg.startswith(("trainer=gpu", "model.path="))]
    if any(arg.startswith("model=") for arg in args) or here != args:
        here += [f"model.path={TINY}"]
    outcome = run_script("eval.py", *here, f"data.folder={world.folder}", *SMALL)
    assert outcome.code == 0, outcome.err
    assert ("overall" in outcome.out) or "--cfg" in args


@pytest.mark.parametrize("command", MAKES)
def test_make_targets_exist(command):
    dry = subprocess.run(
        [*shlex.split(command), "--dry-run"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert dry.returncode == 0, dry.stderr


def test_make_help_lists_every_target():
    shown = subprocess.run(["make", "help"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    phony = re.search(r"^\.PHONY: (.*)$", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)[1].split()
    for target in phony:
        assert f"make {target} " in shown


@pytest.mark.parametrize("source", blocks("python"))
def test_python_snippets(source, tmp_path):
    run = subprocess.run(
        [sys.executable, "-c", source], cwd=tmp_path, env={"PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert "tensor([[" in run.stdout


def test_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_group_and_choice_is_in_the_readme():
    text = (REPOSITORY / "README.md").read_text()
    for group in ("model", "prompt", "resolution", "benchmark", "data", "trainer", "logger", "experiment", "sweep"):
        for file in (REPOSITORY / "conf" / group).glob("*.yaml"):
            assert f"`{file.stem}`" in text, f"{group}={file.stem}"
