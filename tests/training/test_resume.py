"""A killed run goes on to the bits of one that was not, refuses what is not its own, and leaves whole files alone."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from conftest import REPOSITORY, TINY
from faults.harness import same
from safetensors.torch import load_file, save_file
from steps import TARGETS, attached

from gen2embed import UserError
from gen2embed.data.pairs import data_fingerprint
from gen2embed.model.adapter import Lora
from gen2embed.training.batches import ClusterBatchSampler
from gen2embed.training.checkpoint import (
    CheckpointFiles,
    Checkpoints,
    remove_checkpoint,
    remove_unfinished,
    saved_checkpoints,
)
from gen2embed.training.logger import CSVLogger
from gen2embed.training.losses import InfoNCE
from gen2embed.training.module import ContrastiveModule
from gen2embed.training.resume import Resume
from gen2embed.training.sync import OneRank
from gen2embed.types import Item, Pair

STEPS, EPOCH, EVERY = 8, 3, 2  # steps, batches of an epoch of the plan, steps from one checkpoint to the next
SMALL = [
    "trainer=cpu", "data.rows=6", "data.subsets=[shape,t2i]", "mining=random", "mining.top_k=1", "batch.pairs=4",
    "batch.chunk=3", "benchmark=none", "adapter.target_modules=[q_proj,v_proj]", "optim.scheduler.num_warmup_steps=2",
    f"trainer.max_steps={STEPS}", "trainer.log_every_n_steps=1", "~callbacks.progress", "~callbacks.speed",
    f"callbacks.checkpoints.every_n_steps={EVERY}", "engine.store=null",
]  # fmt: skip
TWO = ["strategy=ddp", "trainer.devices=2", "trainer.strategy.timeout_seconds=60"]


@pytest.fixture(scope="module")
def forks(forked, tmp_path_factory):
    """Run train.py in forks; returns the exit codes of the ranks."""
    folder = tmp_path_factory.mktemp("forks")

    def run(output, *args, ranks=1, **told):
        args = [*SMALL, f"data.folder={folder / 'world'}", *(TWO if ranks == 2 else []), f"output_dir={output}", *args]
        return forked(f"{output}.log", *args, script="train.py", folder=folder, ranks=ranks, **told)

    run.world = folder / "world"
    return run


@pytest.fixture(scope="module")
def whole(forks, tmp_path_factory):
    """The folder of a run that nobody killed, by its number of ranks."""
    made = {}

    def run(ranks=1):
        if ranks == 2:
            run()  # draws the world and mines, which two would do at once
        if ranks not in made:
            made[ranks] = tmp_path_factory.mktemp("whole") / "run"
            assert forks(made[ranks], ranks=ranks) == [0] * ranks, said(made[ranks])
        return made[ranks]

    return run


def said(folder, rank=0):
    return Path(f"{folder}.log.{rank}").read_text()


def checkpoint(folder, step=STEPS):
    return torch.load(folder / f"checkpoints/step={step:06d}.ckpt", weights_only=True)


def adapter(folder):
    return load_file(folder / "adapter/adapter_model.safetensors")


def newest(folder):
    found = saved_checkpoints(folder / "checkpoints")
    return int(found[-1].stem.removeprefix("step=")) if found else 0


def assert_bit_identical(folder, expected):
    there, here = checkpoint(expected), checkpoint(folder)
    assert len(here["optimizer_states"][0]["state"]) == len(here["state_dict"]) > 0
    moved = [tensor for name, tensor in here["state_dict"].items() if "lora_B" in name]  # from zero
    assert all(tensor.abs().max() > 0 for tensor in moved)
    assert moved
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "loops", "global_step", "PairDataModule"):
        assert same(here[part], there[part]), part
    assert same(adapter(folder), adapter(expected))
    assert (folder / "metrics.csv").read_text() == (expected / "metrics.csv").read_text()
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {
        path.name for path in (expected / "checkpoints").iterdir()
    }


def test_the_run_is_what_the_kills_need(whole):
    """Several epochs of whole clusters, dropout, AdamW; every step is logged, and the last two checkpoints are kept."""
    made = json.loads((whole() / "checkpoints/run.json").read_text())
    assert made["clusters"].startswith("6 clusters")
    assert made["settings"]["adapter"]["dropout"] == 0.1
    assert made["settings"]["optim"]["optimizer"]["_target_"] == "torch.optim.AdamW"
    assert [path.name for path in saved_checkpoints(whole() / "checkpoints")] == [
        "step=000006.ckpt",
        "step=000008.ckpt",
    ]
    assert len(ClusterBatchSampler([[row, row + 1] for row in range(0, 12, 2)], 12, 4, 0).epoch(0)) == EPOCH
    with (whole() / "metrics.csv").open() as file:
        assert [int(row["step"]) for row in csv.DictReader(file)] == [*range(1, STEPS + 1), 0]


DYING = """
import os, sys
import forks, train
if os.environ.get("LOCAL_RANK", "0") == "{rank}":
    forks.in_the_middle(5, forks.die)
train.main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_ranks_that_lightning_starts(forks, whole, tmp_path, rank):
    """Where one is killed the other ends, and both go on to the same bits."""
    whole(2)
    (tmp_path / "dying.py").write_text(DYING.format(rank=rank))
    environment = {
        **os.environ,
        "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'tests'}:{REPOSITORY / 'tests/helpers'}",
        "OMP_NUM_THREADS": "1",
    }
    arguments = [*SMALL, *TWO, f"data.folder={forks.world}", "output_dir=run"]

    def run(script):
        program = subprocess.Popen([sys.executable, script, *arguments], cwd=tmp_path, env=environment,
                                   stderr=subprocess.DEVNULL, start_new_session=True)  # fmt: skip
        code = program.wait(180)
        until = time.monotonic() + 60
        while is_there(program.pid):
            assert time.monotonic() < until, "a rank is left"
            time.sleep(0.5)
        return code

    code = run(tmp_path / "dying.py")
    assert code != 0
    assert (code == -signal.SIGKILL) == (rank == 0)
    assert newest(tmp_path / "run") == 4
    assert run(REPOSITORY / "train.py") == 0
    assert_bit_identical(tmp_path / "run", whole(2))


def is_there(group):
    """Whether a process of the group runs."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


# --- what is gone on from, and what is not --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def killed_once(forks, tmp_path_factory):
    folder = tmp_path_factory.mktemp("killed") / "run"
    assert forks(folder, kill=[5, 0]) == [-signal.SIGKILL]
    assert newest(folder) == 4
    return folder


@pytest.fixture
def killed(killed_once, tmp_path):
    """The folder of a run of 8 steps that was killed in the sixth; 4 are in its checkpoint."""
    return Path(shutil.copytree(killed_once, tmp_path / "run"))


@pytest.mark.parametrize("mistake", ["the batches start over", "a step does not seed"])
def test_a_mistake_shows(forks, whole, killed, mistake):
    assert forks(killed, mistake=mistake) == [0]
    assert not same(adapter(killed), adapter(whole()))


def test_a_finished_run_trains_nothing_and_evaluates_again(forks, whole, tmp_path):
    folder = Path(shutil.copytree(whole(), tmp_path / "run"))
    shutil.copy(folder / "checkpoints/step=000006.ckpt", folder / "checkpoints/step=000004.ckpt")  # dies before it goes
    evaluation = ["benchmark=world", f"benchmark.folder={forks.world}", "benchmark.subsets=[shape]",
                  "benchmark.queries=4", "bootstrap=20"]  # fmt: skip
    assert forks(folder, *evaluation, mistake="a step is trained") == [0], said(folder)
    assert set(json.loads((folder / "results.json").read_text())["tasks"]) == {"shape"}
    assert same(adapter(folder), adapter(whole()))
    assert same(checkpoint(folder), checkpoint(whole()))
    assert [path.name for path in saved_checkpoints(folder / "checkpoints")] == ["step=000006.ckpt", "step=000008.ckpt"]
    rows = [(its / "metrics.csv").read_text().splitlines()[1 : STEPS + 1] for its in (folder, whole())]
    assert [row.split(",")[:8] for row in rows[0]] == [row.split(",") for row in rows[1]]


def test_starting_over(forks, whole, killed):
    """And dying at once, which leaves nothing of the first run to go on from."""
    arguments = ["resume=never", "optim.optimizer.lr=0.02"]
    assert forks(killed, *arguments, kill=[1, 0]) == [-signal.SIGKILL], said(killed)
    assert json.loads((killed / "checkpoints/run.json").read_text())["settings"]["optim"]["optimizer"]["lr"] == 0.02
    assert newest(killed) == 0
    rows = [(folder / "metrics.csv").read_text().splitlines() for folder in (killed, whole())]
    assert rows[0] != rows[1][:2] == rows[1][:2]  # another rate
    assert [row.split(",")[:3] for row in rows[0]] == [row.split(",")[:3] for row in rows[1][:2]]  # the same first loss


def other_rows(forks, folder):
    """The same settings, but the world's file has the rows of one subset in another order."""
    world = Path(shutil.copytree(forks.world, folder / "world"))
    (file,) = world.glob("train-*-rows6-*/t2i/original-*.parquet")
    table = pq.read_table(file)
    pq.write_table(table.take(list(reversed(range(len(table))))), file)
    return [f"data.folder={world}"]


def other_pictures(forks, folder):
    """The same rows, and another picture of the same name."""
    world = Path(shutil.copytree(forks.world, folder / "world"))
    first, second, *_ = sorted(world.glob("train-*-rows6-*/images/shape/*.png"))
    shutil.copy(first, second)
    return [f"data.folder={world}"]


def other_base(_, folder):
    base = Path(shutil.copytree(TINY, folder / "base"))
    (file,) = base.glob("*.safetensors")
    save_file({name: tensor * 1.01 for name, tensor in load_file(file).items()}, file, {"format": "pt"})
    return [f"model.path={base}"]


def other_clusters(_, folder):
    table = pq.read_table(folder / "run/clusters.parquet")
    pq.write_table(table.filter(pc.greater(table["cluster"], 0)), folder / "some.parquet")
    return [f"data.clusters={folder / 'some.parquet'}"]


REFUSED = {
    "settings": (
        lambda *_: ["optim.optimizer.lr=0.02", "batch.temperature=2"],
        r"run/checkpoints/step=000004.ckpt was made with other settings: batch.temperature is None there and 2 here; "
        r"optim.optimizer.lr is 0.003 there and 0.02 here; undo the change, choose another output_dir, or "
        r"resume=never to start over",
    ),
    "fewer steps": (
        lambda *_: ["trainer.max_steps=3"],
        r"step=000004.ckpt is of step 4, and trainer.max_steps=3: set it to 4 or more, choose another output_dir",
    ),
    "data": (other_rows, r"other data: data is '12 rows of shape, t2i \(fingerprint \w+\)' there and '12 rows"),
    "pictures": (other_pictures, r"other pictures or texts: pictures is '\w+' there and '\w+' here"),
    "base": (
        other_base,
        r"step=000004.ckpt is of another base: files:\w+, and this is files:\w+; set model.path to",
    ),
    "clusters": (other_clusters, r"other clusters: clusters is '6 clusters \(fing.*' there and '5 clusters"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(forks, killed, tmp_path, case):
    change, message = REFUSED[case]
    arguments = change(forks, tmp_path)
    files = {path: path.read_bytes() for path in killed.rglob("*") if path.is_file() and ".hydra" not in path.parts}
    assert len(files) >= 6
    Path(f"{killed}.log.0").unlink(missing_ok=True)
    assert forks(killed, *arguments) == [1]
    assert re.search(f"error: .*{message}", " ".join(said(killed).split())), said(killed)
    assert "Traceback" not in said(killed)
    files.pop(killed / "train.log", None)
    assert all(path.read_bytes() == content for path, content in files.items())


def test_refusals_without_a_run(tmp_path):
    with pytest.raises(UserError, match="resume=yes is unknown; choose one of auto, never"):
        Resume({"resume": "yes"}, None)
    (tmp_path / "step=000004.ckpt").touch()
    trainer = SimpleNamespace(callbacks=[Checkpoints(tmp_path)], world_size=1, is_global_zero=True,
                              strategy=SimpleNamespace(root_device=torch.device("cpu")))  # fmt: skip
    with pytest.raises(UserError, match=r"step=000004.ckpt: .*run.json is missing; choose ano"):
        Resume({"resume": "auto"}, trainer)
    assert Resume({"resume": "never"}, trainer).checkpoint is None
    trainer.callbacks = []
    assert Resume({"resume": "auto"}, trainer).checkpoint is None


def test_more_steps(forks, whole, tmp_path):
    """A finished run goes on under the schedule of its new number of steps, also where it is killed on the way."""
    folders = [Path(shutil.copytree(whole(), tmp_path / name)) for name in ("at_once", "killed")]
    more = [f"trainer.max_steps={STEPS + 2}"]
    assert forks(folders[1], *more, kill=[STEPS + 1, 0]) == [-signal.SIGKILL]
    assert newest(folders[1]) == STEPS
    for folder in folders:
        assert forks(folder, *more) == [0], said(folder)
        assert newest(folder) == STEPS + 2
    assert f"trainer.max_steps was {STEPS} and is {STEPS + 2}: from step {STEPS} on" in " ".join(
        said(folders[0]).split()
    )
    ends = [checkpoint(folder, STEPS + 2) for folder in folders]
    assert same(*(end["state_dict"] for end in ends))
    assert not same(ends[0]["state_dict"], checkpoint(whole())["state_dict"])
    rows = list(csv.DictReader((folders[0] / "metrics.csv").open()))
    rates = [float(row["lr"]) for row in rows if row["lr"]]
    warm = 2
    assert rates[-3:] == pytest.approx([0.003 * left / (STEPS + 2 - warm) if left != 2 else 0 for left in (2, 1, 0)])
    assert forks(folders[0], *more, mistake="a step is trained") == [0]
    # a model is there now: whoever changes what decides the training is told how to go on from it
    assert forks(folders[0], *more, "optim.optimizer.lr=0.02") == [1]
    assert f"checkpoint={folders[0] / 'adapter'}" in "".join(said(folders[0]).split())


def test_another_number_of_ranks(forks, tmp_path):
    """Without dropout, a run of one process that goes on with two ends as it would have, but for rounding."""
    plain = ["adapter.dropout=0"]
    one, other = tmp_path / "one", tmp_path / "other"
    assert forks(one, *plain) == [0], said(one)
    assert forks(other, *plain, kill=[5, 0]) == [-signal.SIGKILL]
    assert forks(other, *plain, ranks=2) == [0, 0], said(other)
    assert "planned for 1 ranks and are divided among 2" in " ".join(said(other).split())
    assert newest(other) == STEPS
    found, expected = (checkpoint(folder)["state_dict"] for folder in (other, one))
    for name, tensor in expected.items():
        assert (found[name] - tensor).abs().max() < 1e-2 * tensor.abs().max(), name  # Adam divides by small numbers
    losses = [
        [float(row["loss"]) for row in csv.DictReader((folder / "metrics.csv").open()) if row["loss"]]
        for folder in (other, one)
    ]
    assert len(losses[0]) == STEPS
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert json.loads((other / "checkpoints/run.json").read_text())["settings"]["ranks"] == 1


def test_shards_of_other_ranks_are_refused(tmp_path):
    """What ZeRO divides cannot be read by another number of ranks, or without it."""
    (tmp_path / "checkpoints/step=000004.ckpt").mkdir(parents=True)
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter/adapter_config.json").write_text("{}")
    zero = {"_target_": "gen2embed.training.zero.Zero", "stage": 2, "timeout_seconds": 5}
    config = {"resume": "auto", "output_dir": str(tmp_path), "trainer": {"max_steps": 9, "strategy": zero}, "batch": {}}
    trainer = SimpleNamespace(callbacks=[Checkpoints(tmp_path / "checkpoints")], world_size=2, is_global_zero=True,
                              strategy=SimpleNamespace(root_device=torch.device("cpu")))  # fmt: skip
    settings = Resume({**config, "resume": "never"}, trainer).settings
    (tmp_path / "checkpoints/run.json").write_text(json.dumps({"settings": settings}))
    slower = {**config, "trainer": {"max_steps": 12, "strategy": {**zero, "timeout_seconds": 9}}}
    assert Resume(slower, trainer).checkpoint.name == "step=000004.ckpt"
    for strategy, ranks in ((zero, 4), ({**zero, "stage": 3}, 2), ("auto", 1)):
        trainer.world_size = ranks
        with pytest.raises(UserError, match=rf"divided among ranks by ZeRO.*checkpoint={tmp_path}/adapter, or resume"):
            Resume({**config, "trainer": {"max_steps": 9, "strategy": strategy}}, trainer)


def test_what_may_differ(forks, whole, killed):
    """Workers, and what is done with the model afterwards; settings and a group that earlier versions did not have, and
    their names of classes.
    """
    file = killed / "checkpoints/run.json"
    run = json.loads(file.read_text())
    del run["settings"]["batch"]["distinct_positives"], run["settings"]["pooling"]
    for group, name in (("loss", "losses.InfoNCE"), ("adapter", "encoder.adapter.Lora"), ("prompt", "prompts.Prompt")):
        run["settings"][group]["_target_"] = f"gen2embed.{name}"
    file.write_text(json.dumps(run))
    assert forks(killed, "batch.workers=2", "bootstrap=5", "data.clusters_of_any_model=true") == [0], said(killed)
    assert_bit_identical(killed, whole())
    assert "bootstrap: 5" in (killed / "config.yaml").read_text()


# --- checkpoints ----------------------------------------------------------------------------------------------------


def test_a_checkpoint_has_no_frozen_weight(whole):
    state = checkpoint(whole())["state_dict"]
    assert all("lora_" in name for name in state)
    trained = sum(tensor.numel() for tensor in state.values())
    size = (whole() / f"checkpoints/step={STEPS:06d}.ckpt").stat().st_size
    assert trained * 4 * 3 < size < trained * 4 * 3 + 100_000  # weights, and two moments of each
    assert size < 500_000 < sum(file.stat().st_size for file in TINY.glob("*.safetensors"))


def test_what_is_trained_and_nothing_else_is_loaded():
    module = ContrastiveModule(attached(Lora(TARGETS, r=4)), InfoNCE(learn_temperature=True), OneRank(), 0, None, None)
    checkpoint = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    state = checkpoint["state_dict"]
    assert "loss.log_scale" in state
    assert len(state) == len(module.trained) < len(module.state_dict())
    module.on_load_checkpoint(checkpoint)
    state["model.more"] = state.pop("loss.log_scale")
    with pytest.raises(UserError, match=r"1 trained weights are missing in it and 1 are left over, such as loss."):
        module.on_load_checkpoint(checkpoint)


def fake_trainer(write, step=0, rank=0, loggers=(), every=0):
    strategy = SimpleNamespace(
        barrier=lambda: None, broadcast=lambda value: 3, reduce_boolean_decision=lambda came, all: came
    )
    return SimpleNamespace(
        save_checkpoint=lambda path, weights_only: write(Path(path)), global_step=step, global_rank=rank, max_steps=99,
        should_stop=False, is_global_zero=rank == 0, strategy=strategy, log_every_n_steps=every, loggers=loggers,
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_the_last_are_kept_and_another_name_stays(tmp_path, kind):
    def write(path):
        if kind == "file":
            path.write_text("all")
        else:
            path.mkdir()
            (path / "shard").write_text("all")

    def names():
        return sorted(path.name for path in tmp_path.iterdir())

    callback = Checkpoints(tmp_path, every_n_steps=10, keep=2)
    for step in range(95, 131):
        callback.on_train_batch_end(fake_trainer(write, step), None)
    callback.save(fake_trainer(write), "best")
    callback.save(fake_trainer(write), "best")  # in place of the first
    assert names() == ["best.ckpt", "step=000120.ckpt", "step=000130.ckpt"]
    assert [path.name for path in saved_checkpoints(tmp_path)] == names()[1:]
    with pytest.raises(OSError, match="disk full"):
        callback.save(fake_trainer(lambda path: write(path) or full_disk()), "step=000140")
    assert names() == [".step=000140.ckpt", "best.ckpt", "step=000120.ckpt", "step=000130.ckpt"]
    remove_unfinished(tmp_path)
    remove_checkpoint(saved_checkpoints(tmp_path)[0])
    assert names() == ["best.ckpt", "step=000130.ckpt"]


def full_disk():
    raise OSError("disk full")


def test_the_order_is_that_of_numbers(tmp_path):
    for name in ("step=999999", "step=1000000", "step=2", "step=3-v1", "best"):
        (tmp_path / f"{name}.ckpt").touch()
    assert [path.stem for path in saved_checkpoints(tmp_path)] == ["step=2", "step=999999", "step=1000000"]
    assert saved_checkpoints(tmp_path / "none") == []


def test_a_checkpoint_that_is_broken_says_so(tmp_path):
    CheckpointFiles().save_checkpoint({"a": torch.ones(3)}, tmp_path / "a.ckpt")
    assert same(CheckpointFiles().load_checkpoint(tmp_path / "a.ckpt"), {"a": torch.ones(3)})
    (tmp_path / "b.ckpt").write_bytes((tmp_path / "a.ckpt").read_bytes()[:500])
    CheckpointFiles().save_checkpoint({"a": np.random.default_rng}, tmp_path / "c.ckpt")  # code, which is not run
    torch.save({"a": torch.ones(3)}, tmp_path / "d.ckpt")  # without a digest
    for name in ("b.ckpt", "c.ckpt", "d.ckpt", "none.ckpt"):
        with pytest.raises(UserError, match=rf"{name} cannot be read: .*; remove it to go on from an earlier one"):
            CheckpointFiles().load_checkpoint(tmp_path / name)


def test_ranks_that_found_different_checkpoints(tmp_path):
    callback = Checkpoints(tmp_path)
    callback.on_train_start(fake_trainer(None, 3, 1), None)
    with pytest.raises(UserError, match=r"rank 1 starts at step 2, and rank 0 at step 3: output_dir must be a folder"):
        callback.on_train_start(fake_trainer(None, 2, 1), None)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"every_n_steps": 0}, r"checkpoints.every_n_steps is at least 1, or null for the last step alone; got 0"),
        ({"keep": 0}, r"callbacks.checkpoints.keep is at least 1; got 0"),
    ],
)
def test_bad_settings(tmp_path, settings, message):
    with pytest.raises(UserError, match=message):
        Checkpoints(tmp_path, **settings)


def test_negatives_are_data():
    pairs = [Pair(Item.create("a"), Item.create("b"), "text", 0, negatives=(Item.create(word),)) for word in "cd"]
    assert data_fingerprint(pairs[:1]) == data_fingerprint(pairs[1:])
    assert data_fingerprint(pairs[:1], negatives=True) != data_fingerprint(pairs[1:], negatives=True)


# --- metrics.csv ----------------------------------------------------------------------------------------------------


def test_a_checkpoint_has_all_rows_before_it(tmp_path):
    """Also where its own step is not logged: the logger holds rows back, and a kill would lose them."""
    logger = CSVLogger(tmp_path, name="", version="")
    logger.log_metrics({"loss": 0.5}, 3)
    trainer = fake_trainer(lambda path: path.touch(), step=4, loggers=[logger], every=3)
    Checkpoints(tmp_path, every_n_steps=2).on_train_batch_end(trainer, None)
    assert (tmp_path / "metrics.csv").read_text().splitlines() == ["loss,step", "0.5,3"]


def test_rows_are_kept_and_come_once(tmp_path):
    logger = CSVLogger(tmp_path, name="", version="")
    for step in (1, 2, 3):
        logger.log_early({"loss": step / 3}, step)
        logger.log_metrics({"loss": step / 3}, step)  # Lightning's own
    logger.log_metrics({"world/overall": 0.5})
    logger.save()
    file = tmp_path / "metrics.csv"
    assert file.read_text().splitlines()[1:] == [f"{step / 3},{step}," for step in (1, 2, 3)] + [",0,0.5"]
    with file.open("a") as opened:
        opened.write("0.9,1")  # was to be step 10
    again = CSVLogger(tmp_path, name="", version="")
    again.keep(2)
    again.log_metrics({"loss": 9.0}, 3)
    again.save()
    assert file.read_text().splitlines() == ["loss,step,world/overall", f"{1 / 3},1,", f"{2 / 3},2,", "9.0,3,"]
    over = CSVLogger(tmp_path, name="", version="")
    over.log_metrics({"loss": 7.0}, 1)
    over.save()
    assert file.read_text().splitlines() == ["loss,step", "7.0,1"]
