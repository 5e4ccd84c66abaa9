"""Nobody is let in: calls in files, pickles, texts that would be markup or move the cursor, tokens and home folders."""

import json

import pytest
from omegaconf import OmegaConf

from gen2embed import UserError, config
from gen2embed.config import make_saved
from gen2embed.presets import compose_shipped
from gen2embed.runs import read_data
from gen2embed.targets import find_target, shipped_targets

config.register_resolvers()

REACHED = [  # each of them was importable under a prefix that was allowed
    "gen2embed.files.os.system", "gen2embed.files.shutil.rmtree", "gen2embed.files.replace_folder",
    "gen2embed.presets.instantiate", "gen2embed.presets.deepcopy", "gen2embed.report.subprocess.run",
    "gen2embed.checkpoint.pickle.loads", "lightning.pytorch.trainer.trainer.torch.load", "lightning.Trainer.fit",
    "torch.optim.optimizer.torch.load", "torch.optim.adam.torch.hub.load", "torch.optim.SGD.__init__.__globals__",
    "lightning.pytorch.core.saving.yaml.load", "lightning.LightningModule.load_from_checkpoint",
    "transformers.optimization.torch.load", "transformers.optimization.get_scheduler.__globals__",
]  # fmt: skip
FOREIGN = [
    "os.system", "builtins.eval", "builtins.exec", "torch.load", "pickle.loads", "hydra.utils.instantiate",
    "hydra.utils.get_method", "subprocess.Popen", "numpy.load", "yaml.load", "gen2embed", "gen2embed.", "",
    None, 3, {}, ["os.system"],
    "gen2embed.images.Resolution.__init__", "gen2embed.images..Resolution", "gen2embed.images.Resolution ",
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
        config.check(cfg, "train", [])


WORLD = {"_target_": "gen2embed.data.world.read_world", "folder": "world", "groups": {}}
SAVED = [
    (EVIL, "os.system.* is not allowed; choose from gen2embed"),
    # allowed in a configuration of one's own, but it would run a repository's code
    (
        {"_target_": "gen2embed.Embedder.from_pretrained", "path": "evil/model", "trust_remote_code": True},
        "from_pretrai",
    ),
    (
        {**WORLD, "folder": {"_target_": "gen2embed.images.Resolution"}},
        "benchmark.folder._target_=.*makes nothing else",
    ),
    ({**WORLD, "subsets": [{"_target_": "gen2embed.images.Resolution"}]}, r"benchmark.subsets\[0\]._target_"),
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
