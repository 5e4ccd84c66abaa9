"""A run's folder, or a file of it, where a model is asked for: the message names the model."""

import pytest

from gen2embed import Embedder, UserError
from gen2embed.model.backbone import check_path
from gen2embed.model.pretrained import find_adapter
from gen2embed.model.run_models import models_of


@pytest.fixture
def run(tmp_path):
    """A run's folder as training leaves it; the files of its models are empty."""
    for name in ("run/adapter", "run/best", "run/steps/50", "run/steps/100", "jobs/0/adapter", "jobs/1/adapter"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "adapter_config.json").touch()
        (tmp_path / name / "adapter_model.safetensors").touch()
    for run in ("run", "young"):
        (tmp_path / run / "checkpoints/step=000007.ckpt").mkdir(parents=True)
        (tmp_path / run / "checkpoints/run.json").touch()
    return tmp_path / "run"


def test_models_of_a_run(run):
    names = [str(path.relative_to(run)) for path in models_of(run)]
    assert names == ["adapter", "best", "steps/100", "steps/50"]
    assert models_of(run.parent) == models_of(run / "adapter") == []


CASES = [
    ("run", ["run/adapter"]),
    ("run/checkpoints", ["run/adapter", "output_dir="]),
    ("run/checkpoints/step=000007.ckpt", ["run/adapter", "output_dir="]),
    ("run/steps", ["run/adapter", "run/steps/100"]),
    ("run/steps/70", ["run/adapter", "run/steps/100"]),
    ("run/adapter/adapter_model.safetensors", ["give its folder", "run/adapter"]),
    ("young", ["a model yet", "young/adapter"]),
    ("young/adapter", ["a model yet", "young/adapter"]),
    ("jobs", ["jobs/0/adapter or", "jobs/1/adapter"]),
]


@pytest.mark.parametrize(("named", "message"), CASES)
def test_what_is_named_instead_of_a_model(run, named, message):
    path = run.parent / named
    asked = [lambda: check_path(path), lambda: Embedder.from_pretrained(path),
             lambda: Embedder.from_pretrained(run / "base", adapter=path)]  # fmt: skip
    if not path.is_dir():
        asked.append(lambda: find_adapter(path))
    for ask in asked:
        with pytest.raises(UserError) as raised:
            ask()
        assert all(part in str(raised.value) for part in message), raised.value
        assert "Traceback" not in str(raised.value)


def test_a_folder_of_something_else_gets_no_advice(tmp_path):
    (tmp_path / "photos").mkdir()
    with pytest.raises(UserError, match=r"it has no config.json$"):
        check_path(tmp_path / "photos")
