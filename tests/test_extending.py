"""docs/extending.md, done: its files written where it says, its commands typed, and what they left looked at."""

import json
import re
import shlex
import sys
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
import torch
from checkpoints import make_checkpoint
from conftest import REPOSITORY, TINY
from hydra.utils import instantiate
from omegaconf import OmegaConf

from gen2embed import Embedder, Item
from gen2embed.config.presets import compose_shipped

PAGE = (REPOSITORY / "docs/extending.md").read_text()
FENCE = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)
COMMANDS = [block.strip() for language, block in FENCE.findall(PAGE) if language == "sh"]


def files():
    """The page's files by path: the first comment names a file, or the line before the block."""
    for block in FENCE.finditer(PAGE):
        language, text = block.groups()
        before = re.search(r"`(my/[\w/.]+)`:\n\n$", PAGE[: block.start()])
        named = before or (language in ("yaml", "py") and re.match(r"# (my/[\w/.]+)", text))
        if named:
            yield named[1].rstrip(":"), text


FILES = dict(files())
SHORT = ["engine.store=null", "trainer=cpu"]
EVAL = [*SHORT, "benchmark.subsets=[shape,i2t]", "bootstrap=10", "report_queries=0"]


@pytest.fixture
def here(tmp_path, monkeypatch, world):
    """A working directory that holds the page's files; the commands' own data are the small world's."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/world").symlink_to(world.folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


@pytest.fixture
def type_command(run_script, here):
    """Run the page's only command that has `part` in it, with overrides that make it short."""

    def run(part, *short):
        (command,) = [command for command in COMMANDS if part in command]
        words = shlex.split(command)
        if words[0].startswith("PYTHONPATH="):
            sys.path.insert(0, str(here / words.pop(0).partition("=")[2]))
        assert words[0] == "python"
        outcome = run_script(*words[1:], *short, cwd=here)
        assert outcome.code == 0, outcome.err
        return outcome

    return run


def test_the_page_has_files_and_commands():
    assert len(FILES) == 18
    assert len(COMMANDS) == 7
    assert {name.split("/")[1] for name in FILES if name.endswith(".yaml")} == {
        "model", "prompt", "pooling", "mining", "benchmark", "data", "loss", "resolution", "optim",
    }  # fmt: skip


def test_a_backbone_of_another_family(type_command, here):
    make_checkpoint("llava_next", here / "checkpoints/my_vlm")
    type_command("model=my_vlm", *EVAL, "resolution=low", "benchmark.queries=8", "output_dir=out")
    described = json.loads((here / "out/manifest.json").read_text())["fingerprint"]
    assert described["image_processor"]["image_processor_type"].startswith("LlavaNext")
    assert described["max_length"] == 1024


def test_a_prompt_is_in_what_the_model_reads(type_command, here):
    type_command("prompt=keyword", *EVAL, "benchmark.queries=8", "output_dir=out")
    prompt = json.loads((here / "out/manifest.json").read_text())["fingerprint"]["prompt"]
    made = instantiate(compose_shipped("eval", ["prompt=keyword"], [str(here / "my")]).prompt, _convert_="all")
    assert prompt == made.describe()
    build = Embedder.from_pretrained(TINY, prompt=made, device="cpu").build
    for role, suffix in (("query", "\nThe keyword is:"), ("candidate", "")):
        read = build.processor.tokenizer.decode(build.token_ids(Item.create("a dog"), role))
        assert "Name what is shown or said in a single keyword." in read
        assert f"a dog{suffix}<|im_end|>" in read


def test_a_pooling_decides_the_vectors_and_stays_with_a_checkpoint(type_command, here, tiny):
    type_command("pooling=mean", *EVAL, "benchmark.queries=2", "output_dir=out")
    pooling = json.loads((here / "out/manifest.json").read_text())["fingerprint"]["pooling"]
    assert pooling == {"_target_": "gen2embed_mean.Mean", "last": 0.25}
    made = instantiate(pooling)
    embedder = replace(tiny, pooling=made)
    hidden = embedder.backbone.model(**embedder.build([Item.create("a dog")], "query")).last_hidden_state[0]
    own = torch.nn.functional.normalize(0.25 * hidden[-1] + 0.75 * hidden.mean(0), dim=0)
    torch.testing.assert_close(embedder.encode("a dog")[0], own, atol=1e-6, rtol=0)
    embedder.save_pretrained(here / "saved")
    assert Embedder.from_pretrained(here / "saved", device="cpu").pooling == made


def test_a_miner_makes_the_clusters_of_its_rule(type_command, here, tiny, world):
    type_command("mining=easy", *SHORT, "data.rows=24", "data.subsets=[shape,t2i]", "mining.top_k=7")
    rows = pq.read_table(here / "outputs/easy/clusters.parquet").to_pylist()
    for subset in ("shape", "t2i"):
        pairs = [pair for pair in world.pairs() if pair.subset == subset]
        queries = tiny.encode([pair.query for pair in pairs], role="query")
        own = (queries * tiny.encode([pair.positive for pair in pairs], role="candidate")).sum(1)
        mined = [row["row"] for row in rows if row["subset"] == subset]
        assert sorted(mined) == list(range(24))
        assert mined != sorted(mined)
        assert own[mined].diff().min() > -1e-5
    assert max(row["position"] for row in rows) == 7


def test_a_benchmark_is_scored(type_command, here):
    type_command("benchmark=sayings", *SHORT, "bootstrap=10", "output_dir=out")
    tasks = json.loads((here / "out/results.json").read_text())["tasks"]
    assert {name: task["queries"] for name, task in tasks.items()} == {"animals": 2}


def test_a_reader_of_ones_own_is_scored_and_leaves_its_sheet(type_command, here):
    type_command("benchmark=riddles", *SHORT, "bootstrap=10", "output_dir=out")
    tasks = json.loads((here / "out/results.json").read_text())["tasks"]
    assert {name: task["queries"] for name, task in tasks.items()} == {"riddles": 3}
    sheet = json.loads((here / "out/riddles.json").read_text())
    assert sheet["solved"] == tasks["riddles"]["precision@1"]
    assert sheet["model"]
    assert not (here / "out/leaderboard.json").exists()


def test_a_loss_data_a_resolution_and_an_optimiser(type_command, here):
    type_command(
        "data=notes", "trainer=cpu", "benchmark.queries=2", "bootstrap=10", "trainer.max_steps=2", "output_dir=out"
    )
    cfg = OmegaConf.load(here / "out/config.yaml")
    assert cfg.data.path == "my/notes.csv"
    trained = torch.load(here / "out/checkpoints/step=000002.ckpt", weights_only=True)["state_dict"]
    assert 0 < (trained["loss.module.bias"] + 10).abs() < 0.1
    assert trained["loss.module.log_scale"] != torch.tensor(10.0).log()
    soft = instantiate(compose_shipped("train", ["loss=soft"], [str(here / "my")]).loss)
    assert (soft.temperature, soft.mask_margin) == (0.05, 0.1)
    assert (cfg.resolution.policy, cfg.resolution.max_pixels) == ("clip", 50176)
    assert cfg.optim.optimizer._target_ == "torch.optim.SGD"
    assert (here / "out/adapter/adapter_config.json").is_file()


def test_a_mistake_in_a_file_of_ones_own_is_one_message(run_script, here):
    (here / "my/benchmark/both.yaml").write_text("defaults:\n  - world@one\n  - sayings@two\n")
    outcome = run_script("eval.py", "--config-dir", "my", "benchmark=both", "+benchmark.three=1", cwd=here)
    assert outcome.code == 1
    assert outcome.err.strip().endswith("benchmark.three is unknown; benchmark has one, two")
    outcome = run_script("eval.py", "--config-dir", "my", "prompt=keywrd", cwd=here)
    assert "did you mean keyword?" in outcome.err


def test_a_module_of_another_name_is_refused(run_script, here):
    outcome = run_script("mine.py", "mining=random", "mining._target_=easy.Easy", cwd=here)
    assert outcome.code == 1
    assert "mining._target_='easy.Easy' is not allowed" in outcome.err
    assert "gen2embed_" in outcome.err


def test_an_experiment_of_ones_own_chooses_the_prompt_of_a_checkpoint(run_script, here, tiny):
    """What an experiment says counts as chosen, and so comes before what the checkpoint carries."""
    tiny.save_pretrained(here / "saved")
    (here / "my/experiment").mkdir()
    (here / "my/experiment/mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /prompt: keyword\ncheckpoint: saved\n"
    )
    given = ["--config-dir", "my", "experiment=mine", *EVAL, "benchmark.queries=2", "output_dir=out"]
    outcome = run_script("eval.py", *given, cwd=here)
    assert outcome.code == 0, outcome.err
    described = json.loads((here / "out/manifest.json").read_text())["fingerprint"]
    assert "keyword" in described["prompt"]["system"]["query"]
