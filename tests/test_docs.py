"""What the README and the docs tell people to type, typed."""

import contextlib
import json
import re
import runpy
import shlex
import subprocess
import sys

import pytest
from conftest import REPOSITORY, TINY, noise

from gen2embed.data.stand_ins import write_mmeb_eval, write_mmeb_train, write_sugarcrepe
from gen2embed.presets import compose_shipped
from gen2embed.rehearsal import experiments

PAGES = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").glob("*.md"))]


def blocks(language):
    return [block for page in PAGES for block in re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)]


LINES = [line.split("#")[0].strip() for block in blocks("bash") for line in block.splitlines()]
COMMANDS = list(dict.fromkeys(line for line in LINES if line))  # in the order in which people meet them
PYTHON = [command for command in COMMANDS if command.startswith("python ")]
MAKES = [command for command in COMMANDS if command.startswith("make ")]


def test_commands_are_found():
    assert len(PYTHON) >= 12
    assert {"make demo", "make test"} <= set(MAKES)
    assert len(PYTHON) + len(MAKES) + 1 == len(COMMANDS)  # and .venv/bin/pre-commit


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A working directory with the data that the commands name."""
    folder = tmp_path_factory.mktemp("here")
    cfg = compose_shipped("eval", ["benchmark=all"]).benchmark
    write_mmeb_train(folder / "data/MMEB-train", compose_shipped("train", ["data=mmeb"]).data.subsets, 8)
    write_mmeb_eval(folder / "data/MMEB-eval", cfg.mmeb.groups, 2, 3)
    subsets = [subset for its in cfg.sugarcrepe.groups.values() for subset in its]
    write_sugarcrepe(folder / "data", subsets, cfg.sugarcrepe_pp.subset_names, 4)
    (folder / "my").mkdir()
    rows = [f"a {word},,{word},\n" for word in ("dog", "cat", "sea", "sun", "fox", "owl", "ant", "elk", "bee")]
    (folder / "my/pairs.csv").write_text("qry,qry_image_path,pos_text,pos_image_path\n" + "".join(rows))
    task = {"qry_text": "a dog", "qry_img_path": "", "tgt_text": ["dog", "cat"], "tgt_img_path": ["", ""]}
    (folder / "my/task.jsonl").write_text(json.dumps(task))
    (folder / "photos").mkdir()
    for number in range(4):
        noise(number).save(folder / f"photos/{number}.png")
    (folder / "questions.txt").write_text("what is it?\nwhere is it?\n")
    return folder


SMOKE = ["--shape", "smoke", "--side", "56"]
MODULE_MODEL = ["--model", str(TINY), "--resolution", "original"]  # the last one counts
SAID = {
    "compare": "overall",
    "report": "written",
    "export": "written",
    "doctor": "0 problems",
    "embed": " written: ",
    "search": "nearest to",
}
BENCHMARKS = {  # shorter, and what they say
    "benchmarks/false_negatives.py": (["--rows", "24", "--seeds", "0", "--top-k", "3"], "| saha |"),
    "benchmarks/mining.py": (["--parts", "compare", "--rows", "200", "--width", "16"], "clusters:"),
    "benchmarks/encode.py": ([*SMOKE, "--works", "labels", "--items", "8", "--rounds", "1"], "encode_labels"),
    "benchmarks/train_step.py": ([*SMOKE, "--works", "step_texts", "--pairs", "4", "--rounds", "1"], "step_texts"),
    "benchmarks/memory.py": (
        [*SMOKE, "--works", "texts", "--schemes", "ours", "--pairs", "2", "4"],
        "ours without its inputs",
    ),
}


def small(script, args):
    """Overrides that make a command short."""
    groups = {arg.partition("=")[0] for arg in args}
    out = ["engine.store=null"]
    if script != "mine.py":
        out += ["bootstrap=10", *([] if "benchmark" in groups else ["benchmark.queries=2"])]
    if script != "eval.py":
        out += [
            *([] if "mining=none" in args else ["mining.top_k=7"]),
            *([] if "data" in groups else ["data.rows=24", "data.subsets=[shape,t2i]"]),
        ]
    if "experiment=false_negatives" in args:
        out += ["mining=random,topk", "data.false_negatives=0.3", "loss.mask_margin=0.1", "seed=0"]
    if script == "train.py":
        out += ["trainer.max_steps=2", "batch.pairs=8"]
    return out


def test_python_commands(run_script, capfd, monkeypatch, here):
    """As written and one after the other, but on the small world, for a few steps, and on the shipped weights where the
    command's own are a download away."""
    for command in PYTHON:
        script, *args = shlex.split(command)[1:]
        monkeypatch.chdir(here)
        if script == "-m":
            monkeypatch.setattr(sys, "argv", [*args, *(MODULE_MODEL if "--model" in args else [])])
            capfd.readouterr()
            with contextlib.suppress(SystemExit):
                runpy.run_module(args[0], run_name="__main__")
            assert SAID[args[1]] in capfd.readouterr().out, command
            continue
        if script in BENCHMARKS:
            monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
            arguments, said = BENCHMARKS[script]
            outcome = run_script(script, *arguments, cwd=here)
            assert outcome.code == 0, f"{command}: {outcome.err}"
            assert said in outcome.out
            continue
        given = [arg for arg in args if not arg.startswith(("trainer=gpu", "model.path="))]
        if given != args or any(arg.startswith("model=") for arg in args):
            given.append(f"model.path={TINY}")
        outcome = run_script(script, *given, *small(script, args), cwd=here)
        assert outcome.code == 0, f"{command}: {outcome.err}"
        assert ("overall" in outcome.out) or "--cfg" in args or script == "mine.py"


@pytest.mark.parametrize("command", MAKES)
def test_make_targets_exist(command):
    dry = subprocess.run(
        [*shlex.split(command), "--dry-run"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert dry.returncode == 0, dry.stderr


def test_make_help_lists_every_target():
    shown = subprocess.run(["make", "help"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    phony = re.search(r"^\.PHONY: (.*)$", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)[1]
    targets = re.sub(r"\$\(.*\)", "", phony).split()
    targets += [name.replace("_", "-").replace("paper-", "reproduce-") for _, name in experiments()]
    assert len(targets) > 18
    for target in targets:
        assert f"make {target} " in shown


@pytest.mark.parametrize("source", blocks("python"))
def test_python_snippets(source, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "snippet.py").write_text(source)
    runpy.run_path("snippet.py")
    assert "tensor([[" in capsys.readouterr().out


def test_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_group_and_choice_is_in_the_readme():
    text = (REPOSITORY / "README.md").read_text()
    for group in (
        "model",
        "prompt",
        "resolution",
        "benchmark",
        "data",
        "trainer",
        "logger",
        "experiment",
        "sweep",
        "mining",
        "adapter",
        "loss",
        "optim",
        "strategy",
        "callbacks",
        "engine",
        "search",
    ):
        for file in (REPOSITORY / "conf" / group).glob("*.yaml"):
            assert f"`{file.stem}`" in text, f"{group}={file.stem}"
