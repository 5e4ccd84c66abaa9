"""Every experiment composes with every choice of one's own; what a checkpoint brings is recorded, or refused."""

import json
import shutil
from dataclasses import replace

import pytest
import yaml
from conftest import EXPERIMENTS, TINY, folders
from omegaconf import OmegaConf
from steps import attached

from gen2embed import UserError
from gen2embed.config import schema, values
from gen2embed.config.overrides import read_experiment
from gen2embed.config.presets import compose_shipped, conf_dir
from gen2embed.model.adapter import Full, Lora, save
from gen2embed.model.prompts import Prompt
from gen2embed.model.resolution import Resolution
from gen2embed.runs.composition import adopt_checkpoint, drop_foreign

values.register_resolvers()
OWN = {"data=pairs": ["data.path=my.csv"], "benchmark=custom": ["benchmark.annotations=my.csv"]}
GROUPS = ("data", "mining", "adapter", "benchmark", "optim", "loss", "strategy", "logger", "model", "prompt",
          "resolution", "pooling", "validation", "trainer")  # fmt: skip
CASES = [
    (name, f"{group}={file.stem}")
    for name, entry in sorted(EXPERIMENTS.items())
    for group in GROUPS
    if group in compose_shipped(entry) or group in ("strategy",)
    for file in sorted((conf_dir() / group).glob("*.yaml"))
    if (group, file.stem) not in {("model", "base"), ("validation", "custom")}
]


def settled(name, *overrides):
    """The configuration of an experiment, as an entry point takes it, and what was dropped."""
    entry = EXPERIMENTS[name]
    cfg = compose_shipped(entry, [f"experiment={name}", *overrides])
    cfg.output_dir = "outputs/x"
    given = dict(override.split("=", 1) for override in overrides)
    dropped = drop_foreign(cfg, entry, given, read_experiment(name, [conf_dir()]))
    return cfg, dropped


def check_pair(name, choice):
    own = OWN.get(choice, [])
    cfg, dropped = settled(name, choice, *own)
    schema.check(cfg, EXPERIMENTS[name], [f"experiment={name}", choice, *own])
    group = choice.partition("=")[0]
    place = "trainer.strategy" if group == "strategy" else group
    assert all(key.startswith(place) or key == "data.clusters" for key in dropped), dropped


SOME = ["data=pairs", "data=world", "mining=none", "adapter=full", "strategy=single", "model=smolvlm", "prompt=suffix"]


@pytest.mark.parametrize("choice", SOME)
def test_the_papers_training_takes_ones_own_choice(choice):
    check_pair("paper_train_2b_one_gpu", choice)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "choice"), CASES)
def test_experiments_take_every_choice_of_ones_own(name, choice):
    check_pair(name, choice)


@pytest.mark.parametrize(
    ("name", "overrides", "dropped"),
    [
        ("paper_train_2b", ["data=pairs", "data.path=my.csv"],
         {"data.split", "data.max_rows_per_subset", "data.clusters", "data.clusters_of_any_model"}),
        ("paper_train_2b_one_gpu", ["data=pairs", "data.path=my.csv", "data.clusters=mine.parquet"],
         {"data.split", "data.max_rows_per_subset", "data.clusters_of_any_model"}),
        ("paper_train_2b", ["mining=none"], {"mining.top_k", "data.clusters"}),
        ("paper_train_2b", ["mining=b3"], {"data.clusters"}),
        ("paper_train_2b", ["strategy=single"], {"trainer.strategy.timeout_seconds"}),
        ("paper_train_2b", ["trainer=auto"], set()),
        ("paper_train_2b", ["trainer=cpu", "strategy=single"], {"trainer.strategy.timeout_seconds"}),
        ("paper_train_2b", ["data=mmeb", "optim=cosine", "logger=csv"], set()),
        ("demo_finetuned", ["adapter=full"], {"adapter.dropout"}),
    ],
)  # fmt: skip
def test_what_is_dropped(name, overrides, dropped, caplog):
    cfg, found = settled(name, *overrides)
    assert set(found) == dropped
    assert all(key in caplog.text for key in dropped)
    for key in dropped:
        group = key.partition(".")[0]
        shipped = compose_shipped(EXPERIMENTS[name], [its for its in overrides if its.partition("=")[0] in GROUPS])
        assert OmegaConf.select(cfg, key) == OmegaConf.select(shipped, key), (group, key)


def test_the_users_own_key_stays_and_is_named():
    cfg, dropped = settled("paper_train_2b", "data=pairs", "data.path=my.csv", "data.split=original")
    assert "data.split" not in dropped
    with pytest.raises(UserError, match=r"data.split is unknown; data has .*path"):
        schema.check(cfg, "train", ["experiment=paper_train_2b", "data=pairs"])


# --- checkpoints ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lora(tmp_path_factory):
    """The folder of an adapter with a prompt and a resolution of its own."""
    folder = tmp_path_factory.mktemp("lora")
    embedder = attached(Lora(["q_proj", "v_proj"], r=4, alpha=16, dropout=0.2))
    settings = {"prompt": Prompt(convention="reference", system={"query": "Say it."}), "resolution": Resolution("clip")}
    save(replace(embedder, build=replace(embedder.build, **settings)), folder)
    return folder


ADOPTED = {"r": 4, "alpha": 16, "dropout": 0.2, "dora": False, "vision": False, "target_modules": ["q_proj", "v_proj"]}


def adopted(lora, groups=(), keys=frozenset(), *overrides):
    cfg = compose_shipped("train", [f"checkpoint={lora}", *overrides])
    adopt_checkpoint(cfg, groups, keys)
    return values.plain(cfg, resolve=False)


def test_the_configuration_has_what_the_checkpoint_brings(lora):
    cfg = adopted(lora)
    assert {key: cfg["adapter"][key] for key in ADOPTED} == ADOPTED
    assert cfg["prompt"]["system"] == {"query": "Say it."}
    assert (cfg["prompt"]["convention"], cfg["resolution"]["policy"]) == ("reference", "clip")
    chosen = adopted(lora, {"prompt"}, frozenset(), "prompt=suffix")
    assert chosen["prompt"]["convention"] == "native"
    assert chosen["resolution"]["policy"] == "clip"
    assert adopted(lora, (), {"r"}, "adapter.r=4")["adapter"]["alpha"] == 16


def test_the_configuration_has_the_pooling_of_the_checkpoint(lora, tmp_path, monkeypatch):
    assert adopted(lora)["pooling"] == {"_target_": "gen2embed.model.pooling.LastToken"}
    (tmp_path / "gen2embed_scaled.py").write_text(
        "from dataclasses import dataclass\n\n@dataclass(frozen=True)\nclass Scaled:\n    size: int\n\n"
        "    def __call__(self, hidden, samples):\n        return self.size * hidden[samples.last]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    own = {"_target_": "gen2embed_scaled.Scaled", "size": 8}
    shutil.copytree(lora, tmp_path / "lora")
    card = json.loads((lora / "gen2embed.json").read_text())
    (tmp_path / "lora/gen2embed.json").write_text(json.dumps({**card, "pooling": own}))
    assert adopted(tmp_path / "lora")["pooling"] == own
    assert adopted(tmp_path / "lora", {"pooling"})["pooling"]["_target_"].endswith("LastToken")


@pytest.mark.parametrize(
    ("keys", "overrides", "differing"),
    [
        (None, ["adapter=dora"], "dora is False there and True here"),
        ({"r"}, ["adapter.r=32"], "r is 4 there and 32 here"),
        ({"alpha"}, ["adapter.alpha=8"], "alpha is 16 there and 8 here"),
        ({"dropout"}, ["adapter.dropout=0"], "dropout is 0.2 there"),
        ({"target_modules"}, ["adapter.target_modules=[q_proj]"], "target_modules"),
        (None, ["adapter=full"], "adapter=full cannot go on from an adapter"),
    ],
)
def test_another_adapter_than_the_checkpoints_is_refused(lora, keys, overrides, differing):
    with pytest.raises(UserError, match="adapter") as raised:
        adopted(lora, (), keys, *overrides)
    assert differing in str(raised.value)


def test_another_kind_of_adapter_is_refused(tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "IA3", "target_modules": ["q_proj"]}))
    with pytest.raises(UserError, match="is of kind IA3"):
        adopted(tmp_path)


def test_more_targets_than_the_checkpoint_has_are_refused(lora):
    """Which of them a backbone has is known once it is loaded."""
    wider = Lora(["q_proj", "v_proj", "k_proj", "of_another_backbone"], r=4)
    embedder = attached(Lora(["q_proj", "v_proj"], r=4))
    with pytest.raises(UserError, match="names k_proj, which"):
        wider.attach(embedder.backbone)
    Lora(["q_proj", "v_proj", "of_another_backbone"]).attach(embedder.backbone)
    Full()


def test_a_whole_checkpoint_brings_its_prompt(tmp_path):
    embedder = attached(Full())
    settings = {"prompt": Prompt(system={"query": "Name it."}), "resolution": Resolution("low")}
    save(replace(embedder, build=replace(embedder.build, **settings)), tmp_path)
    cfg = adopted(tmp_path)
    assert cfg["prompt"]["system"] == {"query": "Name it."}
    assert cfg["adapter"]["r"] == 8  # a new adapter on it
    assert adopted(TINY)["prompt"] == values.plain(compose_shipped("train"), resolve=False)["prompt"]


def test_a_run_leaves_what_it_trained(run_script, world, lora, tmp_path):
    base = ["data.rows=24", "data.subsets=[t2i]", "mining=none", "batch.pairs=4", "benchmark=none",
            "trainer.max_steps=1", folders(world)[0], f"checkpoint={lora}"]  # fmt: skip
    assert (outcome := run_script("train.py", *base, "output_dir=run")).code == 0, outcome.err
    left = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert {key: left["adapter"][key] for key in ADOPTED} == ADOPTED
    assert left["prompt"]["system"] == {"query": "Say it."}
    refused = run_script("train.py", *base, "output_dir=other", "adapter=dora")
    assert refused.code == 1
    assert "dora is False there and True here" in " ".join(refused.err.split())
    assert not (tmp_path / "other/adapter").exists()
