"""What the README and the docs tell people to type, typed."""

import contextlib
import json
import re
import runpy
import shlex
import subprocess
import sys
from dataclasses import replace

import pytest
from conftest import REPOSITORY, TINY, noise

from examples.rehearsal.rehearse import experiments
from examples.rehearsal.stand_ins import write_mmeb_eval, write_mmeb_train, write_sugarcrepe
from gen2embed import Item
from gen2embed.config.presets import compose_shipped, load_preset
from gen2embed.model.prompts import reference_template, render, rendered_text

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
    assert set(COMMANDS) - {*PYTHON, *MAKES} == {".venv/bin/pre-commit install", ". .venv/bin/activate"}


def needed_by(command):
    """The commands that write the folders of outputs that this one reads."""
    read = re.findall(r"outputs/\w+", re.sub(r"output_dir=\S+|--output \S+", "", command))
    written = [{f"output_dir={folder}", f"experiment={folder.removeprefix('outputs/')}"} for folder in read]
    return [other for other in PYTHON if other != command and any(words & set(other.split()) for words in written)]


def chain_of(command):
    """The first command of those that are connected with this one, by what they read of each other."""
    chain, grown = set(), {command}
    while chain != grown:
        chain = grown
        grown = chain | {other for other in PYTHON if chain & {other, *needed_by(other)}}
        grown |= {needed for other in grown for needed in needed_by(other)}
    return min(chain, key=PYTHON.index) if len(chain) > 1 else None


def parameters():
    """The commands as parameters of a test, each once, wherever its outputs go; one worker runs a chain."""
    shown = set()
    for command in PYTHON:
        script = command.split()[1]
        work = script if script in SCRIPTS else re.sub(r" output_dir=\S+", "", command)
        if work not in shown:
            chain = chain_of(command)
            marks = [pytest.mark.xdist_group(f"docs: {chain}")] if chain else []
            yield pytest.param(command, id=command.removeprefix("python "), marks=marks)
        shown.add(work)


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A working directory with the data that the commands name."""
    folder = tmp_path_factory.mktemp("here")
    cfg = compose_shipped("eval", ["benchmark=all"]).benchmark
    write_mmeb_train(folder / "data/MMEB-train", compose_shipped("train", ["data=mmeb"]).data.subsets, 8)
    write_mmeb_eval(folder / "data/MMEB-eval", cfg.mmeb.groups, 2, 3)
    subsets = [subset for subsets in cfg.sugarcrepe.groups.values() for subset in subsets]
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


@pytest.fixture(scope="module")
def finished():
    """The commands that were run to their end."""
    return set()


SMOKE = ["--shape", "smoke", "--side", "56"]
MODULE_MODEL = ["--model", str(TINY), "--resolution", "original"]  # the last one counts
PRINTED = {
    "compare": "precision@1",
    "report": "written",
    "export": "written",
    "doctor": "0 problems",
    "embed": " written: ",
    "search": "nearest to",
}
SCRIPTS = {  # shorter, and what they print
    "benchmarks/false_negatives.py": (["--rows", "24", "--seeds", "0", "--top-k", "3"], "| saha |"),
    "benchmarks/mining.py": (["--parts", "compare", "--rows", "200", "--width", "16"], "clusters:"),
    "benchmarks/encode.py": ([*SMOKE, "--works", "labels", "--items", "8", "--rounds", "1"], "encode_labels"),
    "benchmarks/train_step.py": ([*SMOKE, "--works", "step_texts", "--pairs", "4", "--rounds", "1"], "step_texts"),
    "benchmarks/memory.py": (
        [*SMOKE, "--works", "texts", "--schemes", "ours", "--pairs", "2", "4"],
        "ours without its inputs",
    ),
    "benchmarks/gpu.py": (["--small", "--rows", "1,8"], "| 8 | 500 queries among 500"),
    "docs/figures.py": (["--output", "."], "method_saha.png"),
}


SWEEPS = {"seed=1,2": "seed=1", "prompt=none,suffix,system,hierarchical": "prompt=none,suffix"}  # two jobs each


def small(script, args):
    """Overrides that make a command short."""
    groups = {arg.partition("=")[0] for arg in args}
    out = ["engine.store=null"]
    if script != "mine.py":
        out += [
            "bootstrap=10",
            *([] if "benchmark" in groups else ["benchmark.queries=2", "benchmark.subsets=[shape,colour]"]),
        ]
    if script != "eval.py":
        out += [
            *([] if "mining=none" in args else ["mining.top_k=7"]),
            *([] if "data" in groups else ["data.rows=24", "data.subsets=[shape,t2i]"]),
        ]
    if "experiment=false_negatives" in args:
        out += ["mining=random,topk", "data.false_negatives=0.3", "loss.mask_margin=0.1", "seed=0"]
    if "data=mmeb" in args:
        out.append("data.subsets=[N24News,NIGHTS]")
    if script == "train.py":
        out += ["trainer.max_steps=2", "batch.pairs=8"]
    return [*out, *(shorter for sweep, shorter in SWEEPS.items() if sweep in args)]


@pytest.fixture
def type_command(run_script, python, capfd, monkeypatch, here, finished):
    """Run a command as written, but on the small world, for a few steps, and on the shipped weights where its own are a
    download away; before it those that write what it reads."""

    def run(command):
        for needed in needed_by(command):
            if needed not in finished:
                run(needed)
        script, *args = shlex.split(command)[1:]
        if script == "-m":
            run_module(args)
        elif script in SCRIPTS:
            arguments, printed = SCRIPTS[script]
            monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
            monkeypatch.setattr(sys, "executable", python)  # which measures in processes of their own
            check(run_script(script, *arguments, cwd=here), command, printed)
        else:
            local = [arg for arg in args if not arg.startswith(("trainer=gpu", "model.path="))]
            if local != args or any(arg.startswith("model=") for arg in args):
                local.append(f"model.path={TINY}")
            printed = "" if "--cfg" in args or script == "mine.py" else "overall"
            check(run_script(script, *local, *small(script, args), cwd=here), command, printed)
        finished.add(command)

    def run_module(args):
        monkeypatch.chdir(here)
        remote = "--model" in args and not (here / args[args.index("--model") + 1]).exists()
        monkeypatch.setattr(sys, "argv", [*args, *(MODULE_MODEL if remote else [])])
        capfd.readouterr()
        with contextlib.suppress(SystemExit):
            runpy.run_module(args[0], run_name="__main__")
        assert PRINTED[args[1]] in capfd.readouterr().out

    def check(outcome, command, printed):
        assert outcome.code == 0, f"{command}: {outcome.err}"
        assert printed in outcome.out

    return run


@pytest.mark.parametrize("command", parameters())
def test_python_command(type_command, finished, command):
    if command not in finished:
        type_command(command)


def test_what_a_command_needs_is_found():
    assert needed_by("python -m gen2embed compare outputs/sweep")[0].startswith("python train.py -m")
    assert needed_by("python -m gen2embed compare outputs/false_negatives")[0].endswith("experiment=false_negatives")
    assert chain_of("python eval.py checkpoint=outputs/run/adapter") == "python mine.py output_dir=outputs/mined"
    assert chain_of("python train.py mining=none") is None


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


def anchors(page):
    """The anchors of a page's headings, as Sphinx and GitHub make them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_lead_somewhere():
    for page in PAGES:
        for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]+))?\)", page.read_text()):
            linked = page.parent / target if target else page
            assert linked.exists(), f"{page.name}: {target}"
            assert not anchor or anchor in anchors(linked), f"{page.name}: {target}#{anchor}"


def test_files_in_the_text_exist():
    folders = "gen2embed|tests|conf|examples|benchmarks|docs"
    paths = {
        (page.name, path) for page in PAGES for path in re.findall(rf"`((?:{folders})/[\w./]+\.\w+)`", page.read_text())
    }
    assert len(paths) > 30
    for page, path in paths:
        assert (REPOSITORY / path).exists(), f"{page}: {path}"


def test_the_configuration_page_is_of_the_configuration():
    written = runpy.run_path(str(REPOSITORY / "docs/configuration.py"))["page"]()
    assert written == (REPOSITORY / "docs/configuration.md").read_text(), "run `make docs`"
    for file in (REPOSITORY / "conf").glob("*/*.yaml"):
        assert f"| `{file.stem}` |" in written


def test_every_experiment_of_the_paper_is_on_its_page():
    page = (REPOSITORY / "docs/reproduction.md").read_text()
    for _, name in experiments():
        assert f"`{name}`" in page


def test_the_site_builds_without_a_warning(tmp_path):
    build = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--keep-going", "docs", str(tmp_path)]
    outcome = subprocess.run(build, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stderr
    index = (tmp_path / "index.html").read_text()
    for page in (REPOSITORY / "docs").glob("*.md"):
        assert f'href="{page.stem}.html"' in index or page.stem == "index"
    api = (tmp_path / "api.html").read_text()
    assert "Raises" in api  # of the docstrings
    for name in ("Embedder", "Item", "UserError", "mine_clusters", "resize"):
        assert re.search(rf'id="gen2embed[\w.]*\.{name}"', api), name


def test_the_prompt_on_the_page_is_the_one_that_is_rendered():
    prompt, template = (
        replace(load_preset("prompt", "hierarchical"), convention="reference"),
        reference_template("qwen2_vl"),
    )
    question, answer = Item.create("Which shape is in the picture?", noise(0)), Item.create("circle")
    shown = re.findall(r"```text\n(.*?)```", (REPOSITORY / "docs/method.md").read_text(), re.DOTALL)
    rendered = [render(question, "query", prompt, template), render(answer, "candidate", prompt, template)]
    assert shown == [rendered_text(pieces, "<|image_pad|>") for pieces in rendered]
