"""Runs that loggers keep: one a job, begun before a model is loaded, ended with the job, continued after a kill."""

import json
import os
import sys
from types import SimpleNamespace

import pytest
import wandb
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from lightning_utilities.core.imports import RequirementCache

from gen2embed.runs import tracking
from gen2embed.utils.errors import UserError
from gen2embed.utils.preemption import Preempted

OFFLINE = ("logger=wandb", "logger.offline=true")


@pytest.fixture
def evaluate(run_script, tmp_path):
    """Run eval.py on a task of twelve texts."""
    row = {"qry_img_path": "", "tgt_text": ["a", "b", "c"], "tgt_img_path": [""] * 3}
    rows = [json.dumps({**row, "qry_text": f"query {number}"}) for number in range(12)]
    (tmp_path / "task.jsonl").write_text("\n".join(rows))

    def run(*args):
        flags = [arg for arg in args if arg.startswith("-")]
        settings = ["benchmark=custom", "benchmark.annotations=task.jsonl", "bootstrap=20", "report_queries=0"]
        return run_script("eval.py", *flags, *settings, *(arg for arg in args if arg not in flags))

    return run


@pytest.fixture
def no_model(monkeypatch):
    """Fail as soon as a model is about to be loaded."""

    def load(*_, **__):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("gen2embed.model.backbone.load_backbone", load)


@pytest.fixture
def logged_out(monkeypatch, tmp_path):
    """No W&B account: neither a key in the environment nor one in the home folder."""
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    wandb.teardown()
    yield
    wandb.teardown()


def test_each_job_of_a_multirun_has_a_run_of_its_own(evaluate, tmp_path):
    outcome = evaluate("-m", "prompt=none,system", "output_dir=sweep", *OFFLINE)
    assert outcome.code == 0, outcome.err
    folders = {
        job.name: [path.name for path in job.glob("wandb/offline-run-*")] for job in (tmp_path / "sweep").iterdir()
    }
    runs = [names for job, names in folders.items() if "prompt" in job]
    assert [len(names) for names in runs] == [1, 1]
    assert len({names[0].rpartition("-")[2] for names in runs}) == 2
    assert wandb.run is None


def test_a_job_that_fails_ends_its_run(evaluate, tmp_path, monkeypatch):
    codes = []
    finish = wandb.finish
    monkeypatch.setattr(wandb, "finish", lambda exit_code: [codes.append(exit_code), finish(exit_code)])
    (tmp_path / "gone.jsonl").write_text("{}")
    outcome = evaluate("output_dir=failed", "benchmark.annotations=gone.jsonl", *OFFLINE)
    assert outcome.code == 1
    assert codes == [1]
    assert wandb.run is None


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (None, 0),
        (UserError("x"), 1),
        (KeyboardInterrupt(), 130),
        (Preempted(), 143),
        (SystemExit("said"), 1),
        (SystemExit(), 0),
    ],
)
def test_the_exit_code_of_a_run(monkeypatch, error, code):
    codes = []
    fake = SimpleNamespace(run=object(), finish=lambda exit_code=0: codes.append(exit_code))
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setenv("WANDB_MODE", "online")

    def job():
        with tracking.end_runs():
            os.environ["WANDB_MODE"] = "dryrun"  # as Lightning's logger does for offline=true
            if error:
                raise error

    if error:
        with pytest.raises(type(error)):
            job()
    else:
        job()
    assert codes == [code]
    assert os.environ["WANDB_MODE"] == "online"


def test_a_run_that_was_cut_off_goes_on_under_its_id(tmp_path):
    def run(*, continues=True, fails=False):
        with tracking.end_runs():
            logger = WandbLogger(save_dir=tmp_path, offline=True, resume="auto")
            tracking.begin([logger], continues=continues)
            if fails:
                raise KeyboardInterrupt
        return logger.experiment.id

    def cut_off():
        with pytest.raises(KeyboardInterrupt):
            run(fails=True)
        return json.loads((tmp_path / "wandb/wandb-resume.json").read_text())["run_id"]

    first = cut_off()
    assert run() == first
    second = cut_off()
    assert second != first
    assert run(continues=False) not in (first, second)


@pytest.mark.usefixtures("no_model", "logged_out")
def test_without_a_login_nothing_is_loaded(evaluate):
    outcome = evaluate("output_dir=run", "logger=wandb")
    assert outcome.code == 1
    last = outcome.err.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert all(remedy in last for remedy in ("wandb login", "logger.offline=true", "logger=csv"))
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize("key", ["short", pytest.param("0" * 40, marks=pytest.mark.slow)])  # which waits for its tries
def test_a_wrong_key_and_a_service_out_of_reach(logged_out, monkeypatch, tmp_path, key):
    monkeypatch.setenv("WANDB_API_KEY", key)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "1")
    with pytest.raises(UserError, match="wandb login"), tracking.end_runs():
        tracking.begin([WandbLogger(save_dir=tmp_path)], continues=True)


@pytest.mark.usefixtures("logged_out")
def test_what_needs_no_login(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    with tracking.end_runs():
        tracking.begin([WandbLogger(save_dir=tmp_path)], continues=True)


@pytest.mark.usefixtures("no_model")
def test_tensorboard_that_is_not_installed(evaluate, monkeypatch):
    for name in ("_TENSORBOARD_AVAILABLE", "_TENSORBOARDX_AVAILABLE"):
        absent = RequirementCache("tensorboard>=999")
        monkeypatch.setattr(f"lightning.fabric.loggers.tensorboard.{name}", absent)
    outcome = evaluate("output_dir=run", "logger=tensorboard")
    assert outcome.code == 1
    assert "error: " in outcome.err
    assert all(word in outcome.err for word in ("tensorboard", "pip install", "logger=csv"))
    assert "Traceback" not in outcome.err


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    for logger in (WandbLogger(save_dir=tmp_path / "file/x", offline=True), TensorBoardLogger(tmp_path / "file/x")):
        with pytest.raises(OSError, match="file/x"):
            tracking.begin([logger], continues=True)


def test_one_id_for_many_jobs_is_refused(monkeypatch, tmp_path):
    with pytest.raises(UserError, match=r"logger\.id=mine"):
        tracking.begin([WandbLogger(save_dir=tmp_path, offline=True, id="mine")], continues=True, multirun=True)
    monkeypatch.setenv("WANDB_RUN_ID", "theirs")
    with pytest.raises(UserError, match="WANDB_RUN_ID=theirs"):
        tracking.begin([WandbLogger(save_dir=tmp_path, offline=True)], continues=True, multirun=True)
