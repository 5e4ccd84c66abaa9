"""Nobody is let in: calls in files, pickles, texts that would be markup or move the cursor, tokens and home folders."""

import ast
import json
import re
import shutil
import sys
import tomllib

import pytest
import torch
from conftest import REPOSITORY, TINY, Fake, noise
from omegaconf import OmegaConf
from packaging.requirements import Requirement
from pages import Page
from rich.table import Table

from gen2embed import Embedder, Item, UserError
from gen2embed.__main__ import main
from gen2embed.config import schema, values
from gen2embed.config.presets import PACKAGE, compose_shipped
from gen2embed.config.schema import make_saved
from gen2embed.config.targets import find_target, shipped_targets
from gen2embed.data.mmeb import read_custom
from gen2embed.encoding.engine import Engine
from gen2embed.evaluation.evaluate import evaluate
from gen2embed.mining.clusters import write_clusters
from gen2embed.mining.mine import mine_pairs
from gen2embed.mining.random import Random
from gen2embed.reports.evaluation.page import write_report as write_eval_report
from gen2embed.reports.mining.page import write_report as write_mining_report
from gen2embed.reports.mining.rows import read_data
from gen2embed.runs import results
from gen2embed.runs.console import print_table
from gen2embed.types import Pair
from gen2embed.utils.redaction import expanded, redacted, visible

values.register_resolvers()

REACHED = [  # each of them was importable under a prefix that was allowed
    "gen2embed.utils.files.os.system", "gen2embed.utils.files.shutil.rmtree", "gen2embed.utils.files.replace_folder",
    "gen2embed.config.presets.instantiate", "gen2embed.config.presets.deepcopy",
    "gen2embed.runs.results.subprocess.run", "gen2embed.training.checkpoint.pickle.loads",
    "lightning.pytorch.trainer.trainer.torch.load", "lightning.Trainer.fit",
    "torch.optim.optimizer.torch.load", "torch.optim.adam.torch.hub.load", "torch.optim.SGD.__init__.__globals__",
    "lightning.pytorch.core.saving.yaml.load", "lightning.LightningModule.load_from_checkpoint",
    "transformers.optimization.torch.load", "transformers.optimization.get_scheduler.__globals__",
]  # fmt: skip
FOREIGN = [
    "os.system", "builtins.eval", "builtins.exec", "torch.load", "pickle.loads", "hydra.utils.instantiate",
    "hydra.utils.get_method", "subprocess.Popen", "numpy.load", "yaml.load", "gen2embed", "gen2embed.", "",
    None, 3, {}, ["os.system"],
    "gen2embed.model.resolution.Resolution.__init__", "gen2embed.data.pictures..Resolution",
    "gen2embed.model.resolution.Resolution ",
]  # fmt: skip


@pytest.mark.parametrize("name", [*REACHED, *FOREIGN])
def test_no_other_call_is_made(name):
    with pytest.raises(UserError, match=r"x\._target_=.* (is not allowed|names nothing)"):
        find_target(name, "x")


@pytest.mark.parametrize(
    "name",
    [
        *sorted(shipped_targets()), "lightning.Trainer", "lightning.pytorch.callbacks.LearningRateMonitor",
        "lightning.pytorch.loggers.MLFlowLogger", "torch.optim.SGD", "torch.optim.lr_scheduler.ConstantLR",
        "transformers.optimization.get_constant_schedule",
    ],
)  # fmt: skip
def test_what_a_configuration_is_for_is_allowed(name):
    assert callable(find_target(name, "x"))


OWN = """
import os
from os import system
from shutil import rmtree
from torch.optim import SGD
from functools import partial

class Miner:
    @classmethod
    def make(cls): ...

def read(): ...

alias, made = system, partial(read)
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A user's own module."""
    (tmp_path / "gen2embed_own.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("gen2embed_own")


@pytest.mark.parametrize("name", ["os.system", "system", "rmtree", "SGD", "partial", "alias", "made", "Miner.make"])
def test_what_ones_own_module_merely_imports_is_refused(name, own):
    with pytest.raises(UserError, match=r"is not allowed; a target .* your own module gen2embed_... defines"):
        find_target(f"gen2embed_own.{name}", "mining")


@pytest.mark.parametrize("name", ["Miner", "read"])
def test_what_ones_own_module_defines_is_allowed(name, own):
    assert callable(find_target(f"gen2embed_own.{name}", "mining"))
    make_saved({"_target_": f"gen2embed_own.{name}"}, "benchmark")


EVIL = {"_target_": "os.system", "command": "false"}
HIDDEN = [  # where a call may stand that Hydra would make
    ("trainer.plugins", [EVIL]),
    ("trainer.plugins", [[{"deep": EVIL}]]),
    ("trainer._args_", [EVIL]),
    ("trainer.profiler", {"_target_": "lightning.pytorch.profilers.SimpleProfiler", "dirpath": {"x": [EVIL]}}),
    ("prompt.system", {"query": EVIL}),
    ("callbacks.mine", {**EVIL, "_partial_": True}),
    ("batch.weights", {"a": EVIL}),
    ("mining", {"_target_": "hydra.utils.get_method", "path": "os.system"}),
]


@pytest.mark.parametrize(("key", "value"), HIDDEN)
def test_calls_are_found_wherever_they_stand(key, value):
    cfg = compose_shipped("train")
    OmegaConf.set_struct(cfg, False)
    cfg.output_dir = "outputs/x"
    OmegaConf.update(cfg, key, value, force_add=True)
    with pytest.raises(UserError, match=r"_target_='(os\.system|hydra\.utils\.get_method)' is not allowed"):
        schema.check(cfg, "train", [])


WORLD = {"_target_": "gen2embed.world.data.read_world", "folder": "world", "groups": {}}
SAVED = [
    (EVIL, "os.system.* is not allowed; choose from gen2embed"),
    # allowed in a configuration of one's own, but it would run a repository's code
    (
        {"_target_": "gen2embed.Embedder.from_pretrained", "path": "evil/model", "trust_remote_code": True},
        "from_pretrai",
    ),
    (
        {**WORLD, "folder": {"_target_": "gen2embed.model.resolution.Resolution"}},
        "benchmark.folder._target_=.*is not allowed",
    ),
    ({**WORLD, "subsets": [{"_target_": "gen2embed.model.resolution.Resolution"}]}, r"benchmark.subsets\[0\]._target_"),
    ({**WORLD, "_partial_": True}, "benchmark._partial_ is not allowed"),
    ({**WORLD, "folder": "${oc.env:HOME}"}, "benchmark refers to other values"),
    ({**WORLD, "folders": "x"}, "benchmark.folders is unknown"),
    ("text", "benchmark._target_='text' is not allowed"),
]


@pytest.mark.parametrize(("call", "message"), SAVED)
def test_what_a_stranger_left_in_a_manifest(call, message):
    with pytest.raises(UserError, match=message):
        make_saved(call, "benchmark")


def test_what_a_stranger_left_in_a_configuration(tmp_path, monkeypatch):
    monkeypatch.setenv("A_SECRET", "told")
    data = {"_target_": "gen2embed.data.pairs.Files", "path": "${oc.env:A_SECRET}/rows.csv"}
    (tmp_path / "config.yaml").write_text(json.dumps({"data": data}))
    with pytest.raises(UserError, match="data refers to other values") as caught:
        read_data(tmp_path)
    assert "told" not in str(caught.value)


# --- what is left and said ------------------------------------------------------------------------------------------

TOKEN = "hf_" + "a1B2" * 8
KEY = "0123456789abcdef" * 2


@pytest.fixture
def home(tmp_path, monkeypatch):
    folder = tmp_path / "home" / "ada"
    folder.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    return folder


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("{home}/data", "~/data"), ("{home}", "~"), ("in '{home}/a', {home}", "in '~/a', ~"), ("file://{home}/a", "file://~/a"),
        ("{home}s/data", None), ("/mnt{home}/data", None), ("{home}-old", None), ("~/data", None),
        (f"token {TOKEN} of", "token *** of"), (f"key {KEY}.", "key ***."),
        ("https://ada:pass@host/x", "https://***@host/x"),
        ("+logger.api_key=abc", "+logger.api_key=***"), ("hub_token='abc'", None), ("token=null", None),
        ("batch_tokens=512", None), ("hf_short", None), ("commit 9a8b7c6d" + "0" * 32, None),
        ("image_token: <|x|>", None),
    ],
)  # fmt: skip
def test_redacted_texts(home, text, shown):
    text = text.format(home=home)
    assert redacted(text) == (text if shown is None else shown)


def test_redacted_values(home):
    value = {"path": home / "x", "api_key": "short", "batch_tokens": 3, "token": None, "deep": [{"password": "p"}, 0.5]}
    assert redacted(value) == {
        "path": "~/x", "api_key": "***", "batch_tokens": 3, "token": None, "deep": [{"password": "***"}, 0.5],
    }  # fmt: skip
    assert expanded(redacted({"a": [str(home / "x")], "b": "~user", "c": 1})) == {
        "a": [str(home / "x")],
        "b": "~user",
        "c": 1,
    }


def test_a_home_that_is_the_root_is_none(monkeypatch):
    monkeypatch.setenv("HOME", "/")
    assert redacted("/data/x") == "/data/x"


def test_control_characters_do_nothing():
    assert visible("a\x1b]8;;evil\x07b\x9b2J\rc\u202ed\n\te") == "a\\x1b]8;;evil\\x07b\\x9b2J\\rc\\u202ed\n\te"


MARKUP = "[link=https://evil]x[/link] [/] [bold]\x1b[2J :smile:"


def test_tables_show_texts_as_they_are(capsys):
    table = Table(title=MARKUP)
    table.add_column(MARKUP)
    table.add_row(MARKUP)
    print_table(table)
    out = capsys.readouterr().out
    assert out.count(MARKUP.replace("\x1b", "\\x1b")) == 3
    assert "\x1b" not in out


def left_in(folder):
    """Every file below a folder that holds the home folder or a secret."""
    told = [str(folder).encode(), TOKEN.encode(), KEY.encode()]
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    return {str(path.relative_to(folder)) for path in files if any(its in path.read_bytes() for its in told)}


def test_runs_leave_no_token_and_no_home(run_script, home, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    shutil.copytree(TINY, home / "model")
    model = ["model=base", f"model.path={home}/model", "resolution=original", f"paths.output_dir={home}/out"]
    model += [f"paths.data_dir={home}/data", "trainer=cpu"]
    small = ["benchmark.queries=8", "benchmark.subsets=[shape]", "bootstrap=10", "report_queries=1"]
    train = [*model, *small, "data.rows=24", "trainer.max_steps=2", "batch.pairs=8", "mining=random", "mining.top_k=3"]
    out = home / "out"
    for script, args in (
        ("train.py", [*train, f"output_dir={out}/train"]),
        ("mine.py", [*model, "data.rows=24", "mining.top_k=3", f"output_dir={out}/mine"]),
        ("eval.py", [*model, *small, f"checkpoint={out}/train/adapter", f"output_dir={out}/eval"]),
        ("eval.py", ["-m", *model, *small, "prompt=none", f"output_dir={out}/sweep"]),
    ):
        outcome = run_script(script, *args)
        assert outcome.code == 0, outcome.err
        assert str(home) not in outcome.out
        assert str(home) not in outcome.err
    shutil.rmtree(home / "model")
    # which peft itself reads, and does not expand
    assert left_in(home) == {f"out/train/adapter/{name}" for name in ("adapter_config.json",)}
    manifest = json.loads((out / "eval/manifest.json").read_text())
    assert manifest["config"]["model"]["path"] == "~/model"
    assert manifest["config"]["checkpoint"] == "~/out/train/adapter"
    assert json.loads((out / "train/adapter/gen2embed.json").read_text())["base"]["name"] == "~/model"
    assert read_data(out / "mine").pairs()  # the files are found again
    assert main(["report", str(out / "eval")]) == 0
    shutil.copytree(TINY, home / "model")
    quoted = [re.sub(rf"{home}(.*)", r"'~\1'", arg) for arg in (*model, *small, f"output_dir={out}/again")]
    assert "model.path='~/model'" in quoted
    again = run_script("eval.py", *quoted)
    assert again.code == 0, again.err
    assert (out / "again/results.json").is_file()
    finished = run_script("eval.py", "-m", *model, *small, "prompt=none", f"output_dir={out}/sweep")
    assert "finished before: ~/out/sweep" in " ".join(finished.err.split())


# --- nothing is unpickled, or run by its text -----------------------------------------------------------------------

SOURCES = [*sorted(PACKAGE.rglob("*.py")), *sorted((REPOSITORY / "benchmarks").rglob("*.py")), *REPOSITORY.glob("*.py")]
UNPICKLING = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
ITS_ERROR = ("pickle", "UnpicklingError")  # which torch raises
RUN_BY_TEXT = {"eval", "exec", "compile", "os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"}
YAML = {"yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load"}


def unsafe(source):
    """Calls and imports of a source by which a file's content could run."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [its.name for its in node.names if its.name.partition(".")[0] in UNPICKLING]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in UNPICKLING:
            found += [its.name for its in node.names if (node.module, its.name) != ITS_ERROR]
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            found += [name] if name in RUN_BY_TEXT | YAML or name.endswith("read_pickle") else []
            found += [name] if name == "torch.load" and given.get("weights_only") != "True" else []
            found += [name] if given.get("allow_pickle", "False") != "False" else []
            found += [name] if given.get("shell", "False") != "False" else []
    return found


def test_nothing_is_unpickled_or_run_by_its_text():
    assert len(SOURCES) > 120
    assert {str(path): found for path in SOURCES if (found := unsafe(path.read_text()))} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle", "import dill as d", "from pickle import loads", "from joblib import load", "import shelve",
        "from marshal import loads", "torch.load(f)", "torch.load(f, weights_only=False)", "eval(x)", "exec(x)",
        "np.load(f, allow_pickle=True)", "np.load(f, allow_pickle=how)", "os.system(x)", "yaml.load(f)",
        "subprocess.run(x, shell=True)", "pd.read_pickle(f)",
    ],
)  # fmt: skip
def test_the_test_sees_what_is_unsafe(source):
    assert unsafe(source)


def test_code_of_weights_is_off_and_said_when_on(caplog):
    assert compose_shipped("train").model.trust_remote_code is False
    embedder = Embedder.from_pretrained(TINY, device="cpu")
    assert not embedder.backbone.remote_code
    assert "trust_remote_code" not in caplog.text
    assert Embedder.from_pretrained(TINY, device="cpu", trust_remote_code=True).backbone.remote_code
    assert f"model.trust_remote_code=true: code that lies beside the weights of {TINY} may run" in caplog.text


def test_every_dependency_is_bounded():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    needed = [*project["dependencies"], *(its for extra in project["optional-dependencies"].values() for its in extra)]
    for requirement in map(Requirement, needed):
        if requirement.name != project["name"]:
            assert {its.operator for its in requirement.specifier} == {">=", "<"}, requirement


# --- the reports ----------------------------------------------------------------------------------------------------

PAYLOADS = [
    "</script><script>alert(1)</script>", "<img src=x onerror=alert(1)>",
    "\" onmouseover=\"alert(1)", "' onload='alert(1)",
    "<!--<script>", "--><svg onload=alert(1)>", "</title></style><iframe>", "]]><a href=javascript:alert(1)>",
    "{{ 7 * 7 }}{% raw %}", "\u2028\u2029</", "&lt;b&gt;&#60;script&#62;", "$\\alpha$ ^{",
]  # fmt: skip
PAYLOAD = " ".join(PAYLOADS)
FILE = "<script>alert(1)<!-- <img src=x onerror=alert(1)> \" onload=\"alert(1) ' onload='alert(1) \u2028 &lt;b&gt; $^{"


class Numbered(Fake):
    """Embeds an item by the number that its text ends with."""

    fingerprint = {}  # noqa: RUF012

    def embed(self, items, role):
        numbers = [int(re.search(r"#(\d+)$", " ".join(item.texts))[1]) for item in items]
        return torch.nn.functional.one_hot(torch.tensor(numbers), 32).float()


def skeleton(page):
    """A page's elements and the names of their attributes: what a text must not be able to change."""
    return [(tag, sorted(attributes)) for tag, attributes in page.elements]


def evaluation_page(folder, text, name):
    """The report of a run in which all that a user can name is named by `text`, and files by `name`."""
    tasks = folder / "tasks"
    tasks.mkdir(parents=True)
    noise(1).save(tasks / f"{name}.png")
    rows = [
        {"qry_text": f"{text} #{n}", "qry_img_path": f"{name}.png", "tgt_text": [f"{text} #{n}", f"{text} #{n + 1}"],
         "tgt_img_path": ["", ""]}
        for n in range(6)
    ]  # fmt: skip
    (tasks / f"task {name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    benchmark = read_custom(tasks, name=text)
    evaluation = evaluate(Numbered(), Engine(64), benchmark, 20)
    prompt = {"convention": text, "system": {"query": text, "candidate": text}, "suffix": {"query": {"text": text}}}
    size = {"policy": text, "min_pixels": None, "max_pixels": text, "backend": text}
    made = {"model": text, "adapter": text, "prompt": prompt, "resolution": size, "dtype": text}
    config = {"benchmark": {"_target_": "x"}, "model": {"path": text}, "checkpoint": text, "seed": 0}
    run = folder / f"run {name}"
    results.write_results(
        run,
        evaluation.scores,
        evaluation.predictions,
        results.manifest(config, made, {"wall_seconds": 1.0, "items_per_second": 1.0}),
    )
    write_eval_report([run], folder / "report.html", 5, 0, [benchmark])
    return Page((folder / "report.html").read_text())


def mining_page(folder, text, name):
    """The report of a mined run, named likewise."""
    folder.mkdir()
    noise(1).save(folder / f"{name}.png")
    pairs = [
        Pair(Item.create(f"{text} #{n}", folder / f"{name}.png"), Item.create(f"{text} #{n + 8}"), text, n)
        for n in range(6)
    ]
    mined = mine_pairs(Numbered(), Engine(64), pairs, Random(top_k=2), ())
    manifest = {**mined.manifest, "kind": text, "settings": {"top_k": 2, text: text}, "embedding": {"model": text}}
    write_clusters(folder / "clusters.parquet", mined.table, manifest)
    write_mining_report(folder, pairs)
    return Page((folder / "report.html").read_text())


@pytest.mark.parametrize("make", [evaluation_page, mining_page])
def test_reports_escape_every_text(make, tmp_path):
    plain, hostile = make(tmp_path / "plain", "text", "name"), make(tmp_path / "hostile", PAYLOAD, FILE)
    assert skeleton(hostile) == skeleton(plain)
    assert "alert(1)" in hostile.said  # it is there, as text
    assert not [name for name, _ in hostile.attributes if name.startswith("on")]
    assert hostile.scripts[1:] == plain.scripts[1:]  # our own code
    for data in hostile.scripts[:1]:
        parts = [part for item in json.loads(data)["items"] for part in item]
        assert any(PAYLOADS[0] in part.get("text", "") for part in parts)
        assert any(FILE in part.get("name", "") for part in parts)
        assert not re.search("[<>\u2028\u2029]", data)
