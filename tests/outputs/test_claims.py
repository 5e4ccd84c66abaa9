"""A run writes in a folder that is new, or a run's, and no two at once; what is somebody's there stays."""

import json
import os
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from places import PLACES, PRECIOUS, file, folder, lost, permissions_count, tree

from examples import demo
from gen2embed import UserError
from gen2embed.__main__ import main
from gen2embed.cli.commands import compare
from gen2embed.encoding.store import EmbeddingStore
from gen2embed.outputs.claims import claim_run_folder, is_run, release_claims
from gen2embed.outputs.record import RECORD
from gen2embed.reports.html import check_page
from gen2embed.training.callbacks import SaveSteps
from gen2embed.training.checkpoint import MARK, Checkpoints, remove_unfinished
from gen2embed.training.logger import CSVLogger
from gen2embed.training.resume import Resume


@pytest.fixture(autouse=True)
def released():
    """Folders are claimed until a process ends, and here it does not."""
    yield
    release_claims()


# --- claims ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("several", [False, True])
def test_a_folder_that_is_not_a_runs(tmp_path, monkeypatch, place, several):
    folder(tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    where = PLACES[place](tmp_path / "out")
    before = tree(tmp_path)
    with permissions_count(), pytest.raises((UserError, OSError)) as raised:
        claim_run_folder(where, "eval", several=several)
    assert tree(tmp_path) == before
    assert "Traceback" not in str(raised.value)


def test_a_folder_of_an_earlier_run(tmp_path):
    """By its record, also after a kill right after it; or, without one, by what runs have always left."""
    claim_run_folder(tmp_path / "new", "eval")
    release_claims()
    folder(tmp_path / "new/more")
    claim_run_folder(tmp_path / "new", "eval")
    (tmp_path / "old/.hydra").mkdir(parents=True)
    (tmp_path / "old/.hydra/config.yaml").write_text("model:\n  _target_: gen2embed.model.embedder.load\n")
    assert is_run(tmp_path / "old")
    claim_run_folder(tmp_path / "old", "eval")
    folder(tmp_path / "other/.hydra")
    (tmp_path / "other/.hydra/config.yaml").write_text("model:\n  _target_: their.model\n")
    with pytest.raises(UserError, match=r"\.hydra"):
        claim_run_folder(tmp_path / "other", "eval")


def test_a_link_to_a_new_folder(tmp_path):
    (tmp_path / "out").symlink_to("disk")
    claim_run_folder(tmp_path / "out", "eval")
    assert (tmp_path / "out").is_symlink()
    assert (tmp_path / "disk" / RECORD).is_file()


def test_logs_of_a_scheduler(tmp_path):
    """Are there before the run; a log of the run's own name is somebody's."""
    logs = ("slurm-12.out", "slurm-12.err", "console.log", "job.o12", "job.e12", "stdout", "stderr")
    for name in (*logs, ".DS_Store", ".gitkeep", "lost+found"):
        file(tmp_path / name)
    claim_run_folder(tmp_path, "eval")
    assert (tmp_path / "slurm-12.out").read_text() == PRECIOUS
    folder(tmp_path / "b").joinpath("nested/deep.txt").unlink()
    for path in ("b/nested", "b/notes.txt"):
        (tmp_path / path).rmdir() if (tmp_path / path).is_dir() else (tmp_path / path).unlink()
    file(tmp_path / "b/eval.log")
    with pytest.raises(UserError, match=r"eval\.log"):
        claim_run_folder(tmp_path / "b", "eval")


def test_another_script(tmp_path):
    """Would replace results; in a multirun's folder each has folders of its own."""
    claim_run_folder(tmp_path / "run", "train")
    release_claims()
    with pytest.raises(UserError, match=r"train\.py.*another folder"):
        claim_run_folder(tmp_path / "run", "eval")
    claim_run_folder(tmp_path / "demo", "eval", several=True)
    release_claims()
    claim_run_folder(tmp_path / "demo", "train", several=True)


def test_the_script_of_a_run_without_a_record(tmp_path):
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra/config.yaml").write_text("model:\n  _target_: gen2embed.model.embedder.load\n")
    (tmp_path / ".hydra/hydra.yaml").write_text("hydra:\n  job:\n    name: train\n    config_name: train\n")
    with pytest.raises(UserError, match=r"train\.py.*another folder"):
        claim_run_folder(tmp_path, "eval")
    claim_run_folder(tmp_path, "train")


def test_a_job_of_a_multirun_takes_no_folder_of_somebody(run_script, tmp_path):
    """The multirun's folder is ours, and one in it has the name of a job."""
    claim_run_folder(tmp_path / "out", "eval", several=True)
    release_claims()
    folder(tmp_path / "out/seed=1")
    (tmp_path / "out/seed=1/results.json").write_text(PRECIOUS)
    before = tree(tmp_path)
    arguments = ("seed=1", "output_dir=out", "trainer=cpu", "hydra.sweep.subdir='seed=${seed}'")
    outcome = run_script("eval.py", "-m", *arguments)
    assert outcome.code
    assert "which no run wrote" in outcome.err
    assert not lost(before, tree(tmp_path))


def test_a_job_goes_on_in_its_own_folder(tmp_path):
    """Where Hydra has written before the job is asked; another script has a folder of its own."""
    written = [".hydra", "eval.log"]
    folder(tmp_path / "job/.hydra")
    file(tmp_path / "job/eval.log")
    claim_run_folder(tmp_path / "job", "eval", begun=written)
    release_claims()
    file(tmp_path / "job/results.json")
    claim_run_folder(tmp_path / "job", "eval", begun=written)
    release_claims()
    with pytest.raises(UserError, match=r"eval\.py.*another folder"):
        claim_run_folder(tmp_path / "job", "train", begun=[".hydra", "train.log"])


def test_two_runs_at_once(tmp_path):
    """The second is refused, until the first has ended, however it did; its ranks and workers are not in the way."""
    claim_run_folder(tmp_path, "train")
    before = tree(tmp_path)
    with pytest.raises(UserError, match="another run"):
        claim_run_folder(tmp_path, "train")
    assert tree(tmp_path) == before
    ready, started = os.pipe()
    worker = os.fork()  # of a loader, which outlives its run for a while
    if not worker:
        os.write(started, b"1")
        time.sleep(30)
        os._exit(0)
    os.read(ready, 1)
    try:
        release_claims()
        claim_run_folder(tmp_path, "train")
    finally:
        os.kill(worker, 9)
        os.waitpid(worker, 0)


def test_a_rank_shares_the_folder(tmp_path, monkeypatch):
    claim_run_folder(tmp_path, "train")
    monkeypatch.setenv("LOCAL_RANK", "1")
    claim_run_folder(tmp_path, "train")


@pytest.mark.parametrize("place", ["a full folder", "a link to a file"])
@pytest.mark.parametrize("multirun", [[], ["-m"]])
def test_a_script_refuses(run_script, tmp_path, place, multirun):
    """Before Hydra writes its settings and its log there."""
    PLACES[place](tmp_path / "out")
    before = tree(tmp_path)
    outcome = run_script("eval.py", *multirun, "output_dir=out", "trainer=cpu")
    assert outcome.code == 1
    assert "error: " in outcome.err
    assert "Traceback" not in outcome.err
    assert tree(tmp_path) == before


@pytest.mark.parametrize("value", ["null", "''"])
def test_no_folder_at_all(run_script, tmp_path, value):
    outcome = run_script("eval.py", f"output_dir={value}", "trainer=cpu")
    assert outcome.code == 1
    assert "output_dir is empty" in outcome.err
    assert not list(tmp_path.iterdir())


# --- in a run's folder ----------------------------------------------------------------------------------------------


def a_trainer(callback):
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    return SimpleNamespace(callbacks=[callback], world_size=1, is_global_zero=True, strategy=strategy, max_steps=10)


def test_starting_over_keeps_checkpoints_of_others(tmp_path):
    """Of any name but a run's, hidden ones too; one that has a run's name is refused."""
    for name in ("mine.ckpt", ".mine.ckpt", "last.ckpt", "epoch=1-step=4.ckpt", ".step=4.ckpt.mine"):
        file(tmp_path / name)
    before = tree(tmp_path)
    for name in ("step=000002.ckpt", ".step=000003.ckpt", f"..step=000003.ckpt.{'a' * 32}"):
        (tmp_path / name).write_bytes(b"state" + MARK + b"0" * 32)
    resume = Resume({"resume": "never"}, a_trainer(Checkpoints(tmp_path)))
    resume._begin([])
    assert not lost(before, tree(tmp_path))
    assert sorted(tree(tmp_path)) == sorted([*before, "run.json"])
    file(tmp_path / "step=000004.ckpt")
    before = tree(tmp_path)
    with pytest.raises(UserError, match=r"step=000004\.ckpt.*move it away"):
        resume._begin([])
    assert tree(tmp_path) == before
    (tmp_path / "step=000004.ckpt").unlink()
    file(tmp_path / "run.json")
    with pytest.raises(UserError, match=r"run\.json.*move it away"):
        resume._begin([])
    assert (tmp_path / "run.json").read_text() == PRECIOUS


def test_a_sweep_follows_no_link(tmp_path):
    (tmp_path / ".step=000003.ckpt").symlink_to(folder(tmp_path / "theirs"))
    before = tree(tmp_path)
    remove_unfinished(tmp_path)
    assert tree(tmp_path) == before


def test_steps_that_are_somebodys(tmp_path):
    folder(tmp_path / "4")
    callback = SaveSteps(tmp_path, every_n_steps=4)
    with pytest.raises(UserError, match="not empty"):
        callback.on_train_start(a_trainer(callback), None)


def test_a_log_that_is_somebodys(tmp_path):
    for name in ("metrics.csv", "hparams.yaml"):
        file(tmp_path / name)
        with pytest.raises(UserError, match=f"{name}.*save_dir"):
            CSVLogger(tmp_path, "", "")
        (tmp_path / name).unlink()
    for loss in (1.0, 2.0):  # a run, and another one in its place
        logger = CSVLogger(tmp_path, "", "")
        logger.log_metrics({"loss": loss}, 1)
        logger.save()
    assert (tmp_path / "metrics.csv").read_text().count("\n") == 2


def test_a_store_that_is_somebodys(tmp_path):
    where = folder(tmp_path / "store")
    before = tree(tmp_path)
    with pytest.raises(UserError, match="another folder"):
        EmbeddingStore(where, {"model": "a"})
    (where / "manifest.json").write_text(PRECIOUS)
    with pytest.raises(UserError, match="another folder"):
        EmbeddingStore(where, {"model": "a"})
    assert not lost(before, tree(tmp_path))


# --- beside runs ----------------------------------------------------------------------------------------------------


def write_run(where, seed):
    task = {"precision@1": 0.5, "queries": 4, "group": "all"}
    config = {"seed": seed, "prompt": "none"}
    scores = {"tasks": {"shape": task}, "groups": {}, "overall": None, "manifest": {"config": config}}
    where.mkdir(parents=True)
    (where / "results.json").write_text(json.dumps(scores))


@pytest.mark.parametrize("name", compare.FILES)
def test_compare_refuses(tmp_path, name):
    for seed in (0, 1):
        write_run(tmp_path / f"runs/{seed}", seed)
    file(tmp_path / "runs" / name)
    before = tree(tmp_path)
    with pytest.raises(UserError, match=name):
        compare.run(SimpleNamespace(folder=tmp_path / "runs", by=[]))
    assert tree(tmp_path) == before
    (tmp_path / "runs" / name).unlink()
    for _ in range(2):
        compare.run(SimpleNamespace(folder=tmp_path / "runs", by=[]))


def test_a_report_in_a_runs_folder(tmp_path):
    """Replaces the run's, and no file of another name or in another folder."""
    claim_run_folder(tmp_path / "run", "eval")
    for name in ("report.html", "results.json"):
        file(tmp_path / "run" / name)
    assert check_page(tmp_path / "run/report.html")
    with pytest.raises(UserError, match=r"results\.json"):
        check_page(tmp_path / "run/results.json")
    file(tmp_path / "report.html")
    with pytest.raises(UserError, match=r"report\.html"):
        check_page(tmp_path / "report.html")


def report_mining():
    raise SystemExit(main(["report", *sys.argv[1:]]))


@pytest.mark.parametrize(("program", "output"), [(demo.main, "demo.png"), (report_mining, "report.html")])
def test_programs_refuse(tmp_path, monkeypatch, capsys, program, output):
    file(tmp_path / output)
    file(tmp_path / "clusters.parquet")
    monkeypatch.setattr(demo, "collect", lambda _: {})
    monkeypatch.setattr("sys.argv", ["program", str(tmp_path)])
    before = tree(tmp_path)
    with pytest.raises(SystemExit) as ended:
        program()
    assert output in f"{ended.value}{capsys.readouterr().err}"
    assert tree(tmp_path) == before
