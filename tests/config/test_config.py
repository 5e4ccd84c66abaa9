"""Every shipped config composes, passes the check and instantiates; every mistake is one message."""

import pytest
from conftest import EXPERIMENTS
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException
from hydra.utils import instantiate
from omegaconf import OmegaConf

from gen2embed import UserError
from gen2embed.config import schema, values
from gen2embed.config.messages import explain
from gen2embed.config.presets import compose_shipped, conf_dir
from gen2embed.runs.build import check_training, make_recipe, make_trainer

ENTRIES = ("eval", "mine", "train")
GROUPS = {  # of each entry point, in the order of its defaults
    entry: [next(iter(node)) for node in OmegaConf.load(conf_dir() / f"{entry}.yaml").defaults if node != "_self_"]
    for entry in ENTRIES
}
CHOICES = [
    (entry, f"{group}={file.stem}")
    for entry, groups in GROUPS.items()
    for group in groups
    for file in sorted((conf_dir() / group).glob("*.yaml"))
    if group != "experiment" or EXPERIMENTS[file.stem] == entry
]
FIRST = {(entry, choice.partition("=")[0]): choice for entry, choice in reversed(CHOICES)}


def composed_by_training(entry, choice):
    """Whether train.py reads the same file, and this is not the first of its group, which every entry point reads."""
    group = choice.partition("=")[0]
    return entry != "train" and group in GROUPS["train"] and group != "experiment" and FIRST[entry, group] != choice


values.register_resolvers()


def composed(*overrides, entry="eval"):
    cfg = compose_shipped(entry, overrides)
    cfg.output_dir = "outputs/x"  # Hydra's clock runs in a program only
    return cfg


def test_groups_are_complete():
    every = {group for groups in GROUPS.values() for group in groups}
    assert {path.name for path in conf_dir().iterdir()} == {*every, *(f"{entry}.yaml" for entry in ENTRIES)}
    assert len(CHOICES) > 80


@pytest.mark.parametrize(
    ("entry", "choice"),
    [pytest.param(*pair, marks=pytest.mark.slow if composed_by_training(*pair) else []) for pair in CHOICES],
)
def test_every_choice_composes_and_instantiates(entry, choice, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base = {"model=base": ["model.path=some/model"], "data=pairs": ["data.path=my.csv"],
            "benchmark=custom": ["benchmark.annotations=my.csv"],
            "validation=custom": ["validation.benchmark.annotations=my.csv"]}.get(choice, [])  # fmt: skip
    cfg = composed(choice, *base, entry=entry)
    schema.check(cfg, entry, [choice])
    group, _, name = choice.partition("=")
    if group in {"prompt", "resolution", "data", "engine", "search", "mining", "loss", "adapter", "optim", "callbacks",
                 "logger"}:  # fmt: skip
        assert (instantiate(cfg[group]) is None) == (choice in ("logger=none", "mining=none", "adapter=none"))
    if group in ("trainer", "strategy") and name != "gpu":  # which needs one
        assert make_trainer(cfg).num_devices == 1
    if group == "model":
        assert callable(instantiate(cfg.model, _partial_=True))


def test_choices_that_build_on_another_have_its_keys():
    saha, topk = (composed(f"mining={name}", entry="mine").mining for name in ("saha", "topk"))
    assert topk == {**saha, "_target_": "gen2embed.mining.saha.TopK"}
    mmeb = composed("validation=mmeb", entry="train").validation
    for name, steps in (("world", 50), ("custom", 250), ("sugarcrepe", 250), ("sugarcrepe_pp", 250)):
        validation = composed(f"validation={name}", entry="train").validation
        assert validation.keys() == mmeb.keys()
        assert validation.every_n_steps == steps
        benchmark = composed(f"benchmark={name}").benchmark
        assert validation.benchmark._target_ == benchmark._target_
        assert validation.benchmark.keys() == benchmark.keys()


@pytest.mark.parametrize("file", sorted(conf_dir().rglob("*.yaml")), ids=lambda file: str(file.relative_to(conf_dir())))
def test_every_file_says_what_it_is(file):
    assert file.read_text().startswith("# ")


def test_experiments_begin_with_their_command():
    for file in (conf_dir() / "experiment").glob("*.yaml"):
        lines = file.read_text().splitlines()
        assert lines[0] == "# @package _global_"
        assert lines[1] == f"# python {EXPERIMENTS[file.stem]}.py experiment={file.stem}"


def test_tiny_keeps_pictures_unless_told():
    assert composed().resolution.policy == "original"
    assert composed("resolution=clip").resolution.policy == "clip"
    assert composed("model=qwen2_vl_2b").resolution.policy == "clamp"


@pytest.mark.parametrize("entry", ENTRIES)
def test_an_embedder_brings_its_prompt_and_pixel_budget_unless_told(entry):
    its_own = composed("model=qwen3_vl_embedding_2b", entry=entry)
    assert its_own.prompt.system.query == "Represent the user's input."
    assert (its_own.resolution.policy, its_own.resolution.max_pixels) == ("original", 1843200)
    told = composed("model=qwen3_vl_embedding_2b", "prompt=none", "resolution=clip", entry=entry)
    assert told.prompt.system == {}
    assert (told.resolution.policy, told.resolution.max_pixels) == ("clip", None)
    assert told.model.max_length == its_own.model.max_length == 8192


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["+model.max_lenght=3"], "model.max_lenght is unknown; model has .*max_length.*did you mean max_length"),
        (["+sed=3"], "sed is unknown; the configuration has .*seed.*did you mean seed"),
        (["+paths.foo=3"], "paths.foo is unknown; paths has cluster_dir, data_dir, embedding_dir, output_dir"),
        (["resolution.policy=tiny"], "resolution.policy='tiny' is not valid: Input should be 'low', .*'original'"),
        (["model.dtype=half"], "model.dtype='half' is not valid: Input should be 'auto', 'float32'"),
        (["prompt.convention=own"], "prompt.convention='own' is not valid: Input should be 'reference' or 'native'"),
        (["+prompt.system.passage=x"], "prompt.system.*passage.* is not valid: Input should be 'query' or 'candidate'"),
        (["engine.batch_tokens=many"], "engine.batch_tokens='many' is not valid"),
        (["seed=x"], "seed='x' is not valid"),
        (["seed=-1"], "seed=-1 is not valid: .*greater than or equal to 0"),
        (["seed=null"], "seed=None is not valid"),
        (["bootstrap=0"], "bootstrap=0 is not valid: .*greater than or equal to 1"),
        (["checkpoint=7"], "checkpoint=7 is not valid: .*for texts write \"checkpoint='7'\""),
        (
            ["prompt._target_=os.system"],
            "prompt._target_='os.system' is not allowed; a target .*is what a file of conf/ names",
        ),
        (["prompt._target_=gen2embed.none"], "prompt._target_='gen2embed.none' is not allowed"),
        (["benchmark.queries=many"], "benchmark.queries='many' is not valid"),
        (["benchmark=all", "+benchmark.mmeb.subset=[x]"], "benchmark.mmeb.subset is unknown; .*did you mean subsets"),
        (["benchmark=all", "+benchmark.imagenet=x"], "benchmark.imagenet is unknown; benchmark has mmeb, sugarcrepe, "),
        (["benchmark=custom"], "benchmark.annotations has no value; set it as benchmark.annotations=..."),
        (["output_dir=${nowhere}"], "the configuration cannot be resolved: .*nowhere"),
        (["trainer.num_nodes=many"], "trainer.num_nodes='many' is not valid: Input should be a valid integer"),
        (["+trainer.acelerator=cpu"], "trainer.acelerator is unknown; .*did you mean accelerator"),
    ],
)
def test_mistakes_in_a_composed_config(overrides, message):
    cfg = compose_shipped("eval", overrides)
    if not overrides[0].startswith("output_dir"):
        cfg.output_dir = "outputs/x"
    with pytest.raises(UserError, match=message):
        schema.check(cfg, "eval", overrides)


def test_a_class_of_the_wrong_kind():
    cfg = composed()
    cfg.benchmark.folder = OmegaConf.create({"_target_": "gen2embed.model.resolution.Resolution"})
    with pytest.raises(UserError, match=r"benchmark\.folder must be a Path; got a Resolution"):
        schema.check(cfg, "eval", [])


def test_a_value_that_a_library_does_not_take():
    with pytest.raises(UserError, match=r"optim.optimizer.lr='fast' is not valid"):
        schema.check(composed("optim.optimizer.lr=fast", entry="train"), "train", [])


@pytest.mark.parametrize("setting", ["seed=x", "on_error=x", "max_skipped_share=x", "clusters_of_any_model=x"])
def test_values_of_inherited_fields(setting):
    key, _, value = setting.partition("=")
    with pytest.raises(UserError, match=rf"data\.{key}='{value}' is not valid"):
        schema.check(composed(f"data.{setting}", entry="train"), "train", [])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["batch.pairs=null"], r"batch\.pairs=None is not valid"),
        (["batch.chunk_tokens=x"], r"batch\.chunk_tokens='x' is not valid"),
        (["batch.temperature=x"], r"batch\.temperature='x' is not valid"),
        (["batch.weights=1"], r"batch\.weights=1 is not valid"),
        (["+batch.weights.shape=many"], r"batch\.weights.*='many' is not valid"),
    ],
)
def test_mistakes_in_the_settings_of_batches(overrides, message):
    cfg = composed(*overrides, entry="train")
    with pytest.raises(UserError, match=message):
        make_recipe(cfg, make_trainer(cfg))


@pytest.mark.parametrize("setting", ["max_steps=0", "max_steps=-1", "log_every_n_steps=0", "max_epochs=0"])
def test_a_trainer_that_would_not_train(setting):
    cfg = composed(f"trainer.{setting}", entry="train")
    with pytest.raises(UserError, match=rf"trainer\.{setting.partition('=')[0]}"):
        check_training(cfg, make_trainer(cfg))


CONVENTION = "prompt.conventoin is unknown; prompt has convention, "


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        (
            "prompt=hierarchica",
            "choose one of hierarchical, none, qwen3_vl_embedding, suffix, system (did you mean hier",
        ),
        ("prompt.conventoin=native", CONVENTION),
        ("promt=none", "promt is unknown; the configuration has "),
        ("+promt=none", "promt is unknown; the configuration has "),
        ("+prompt.conventoin=native", CONVENTION),
        ("resolution=tiny", "choose one of clamp, clip, high, low, mid, mid_high, mid_low, original, qwen3_vl_embed"),
        ("seed", "missing EQUAL"),
        ("resolution=336", "a group takes the name of a choice"),
        ("trainer.num_nodes=many", "trainer.num_nodes='many' is not valid"),
        ("model=qwen2_vl", "choose one of base, gemma3_4b, llava_next_7b, "),
        ("benchmark=mmbe", "custom, mmeb, none, sugarcrepe, sugarcrepe_pp, world (did you mean mmeb?)"),
        ("benchmark=none", "benchmark=none evaluates nothing; choose another benchmark"),
    ],
)
def test_mistakes_on_the_command_line(run_script, argument, message):
    outcome = run_script("eval.py", argument)
    assert outcome.code == 1
    assert message in outcome.err
    assert "Traceback" not in outcome.err
    assert outcome.err.count("error: ") == 1


def test_a_key_that_a_file_of_ones_own_lacks(run_script, tmp_path):
    (tmp_path / "my" / "mining").mkdir(parents=True)
    (tmp_path / "my" / "mining" / "short.yaml").write_text("_target_: gen2embed.mining.saha.SaHa\ntop_k: 3\n")
    arguments = ["mine.py", "--config-dir", "my", "mining=short", "mining.skip_ranks=1"]
    assert "if its class takes it, write +mining.skip_ranks=..." in run_script(*arguments).err


def test_presets_leave_a_running_program_alone():
    sentinel = object()
    GlobalHydra.instance().hydra = sentinel
    try:
        compose_shipped("eval")
        assert GlobalHydra.instance().hydra is sentinel
    finally:
        GlobalHydra.instance().clear()


def test_a_yaml_file_that_cannot_be_composed(run_script, tmp_path):
    """Hydra's own error has no text."""
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment/bad.yaml").write_text("# @package _global_\nseed: ${oops\n")
    outcome = run_script("eval.py", "--config-dir", str(tmp_path), "experiment=bad")
    assert outcome.code == 1
    assert "error: no viable alternative at input '${oops'" in outcome.err


def test_an_error_that_is_its_own_cause():
    """As OmegaConf raises it where a debugger traces the program, or coverage."""
    error = ConfigCompositionException("no such thing")
    error.__cause__ = error
    assert explain(error, "eval", []) == "no such thing"
