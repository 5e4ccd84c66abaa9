"""Names of earlier versions: saved configurations are read under today's, and command lines are told them."""

import json

import pytest
from hydra.utils import get_object
from omegaconf import OmegaConf

from gen2embed.config.presets import compose_shipped
from gen2embed.config.renamed import KEYS, TARGETS, translate
from gen2embed.config.values import plain, register_resolvers
from gen2embed.runs.sweeps import LAST, is_finished

register_resolvers()


@pytest.fixture(scope="module")
def config():
    cfg = compose_shipped("train", ["strategy=ddp"])
    cfg.output_dir = "outputs"
    return plain(cfg)


def as_before(node, path=""):
    """A configuration under the names of the earlier version."""
    if not isinstance(node, dict):
        return node
    keys, targets = ({new: old for old, new in names.items()} for names in (KEYS, TARGETS))
    saved = {}
    for key, value in node.items():
        dotted = f"{path}.{key}" if path else key
        name = keys.get(dotted, dotted).rpartition(".")[2]
        saved[name] = targets.get(value, value) if key == "_target_" else as_before(value, dotted)
    return saved


def test_every_name_of_today_is_there(config):
    for name in TARGETS.values():
        assert get_object(name)
    for old, new in KEYS.items():
        assert OmegaConf.select(OmegaConf.create(config), new, default=config) is not config
        assert OmegaConf.select(OmegaConf.create(config), old) is None


def test_a_saved_configuration_is_read_under_the_names_of_today(config):
    before = as_before(config)
    assert before["shortcuts"] == {
        "_target_": "gen2embed.types.Shortcuts", "share": True, "vision_once": True, "norms_once": True,
        "keep_graphs": None,
    }  # fmt: skip
    assert before["trainer"]["strategy"]["_target_"] == "gen2embed.sync.Replicated"
    assert translate(before) == config


def test_a_job_of_the_earlier_version_is_finished(config, tmp_path):
    (tmp_path / "manifest.json").write_text(json.dumps({"config": as_before(config)}))
    (tmp_path / LAST).touch()
    assert is_finished(tmp_path, config)


@pytest.mark.parametrize(
    "override", ["shortcuts.share=false", "+shortcuts.share=false", "loss._target_=gen2embed.losses.InfoNCE"]
)
def test_a_command_line_is_told_the_name_of_today(run_script, override):
    outcome = run_script("train.py", "trainer=cpu", override)
    assert outcome.code == 1
    today = KEYS.get("shortcuts.share") if "share" in override else TARGETS["gen2embed.losses.InfoNCE"]
    assert f"is an earlier version's name; {'set' if 'share' in override else 'write'} {today}" in outcome.err
