"""Several ranks: their gradient is the whole batch's, a run on two is a run on one, and nobody waits for ever."""

import csv
import json
import os
import re
import signal
import socket
import subprocess
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
import zero_ranks
from conftest import REPOSITORY, SIZE, TINY, folders
from hydra.core.hydra_config import HydraConfig
from lightning import Trainer
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy
from safetensors.torch import load_file
from steps import LORA, LOSSES, TARGETS, attached, cached, error, make_module, trained, varied_pairs, whole
from zero_ranks import cases

from gen2embed import Embedder, UserError
from gen2embed.config.presets import compose_shipped
from gen2embed.mining.mine import await_mined, mine_once
from gen2embed.mining.random import Random
from gen2embed.model.adapter import Lora
from gen2embed.outputs.paths import replace_folder
from gen2embed.outputs.record import RECORD
from gen2embed.runs.build import make_trainer
from gen2embed.training.callbacks import CheckRanksAgree, SaveSteps
from gen2embed.training.datamodule import several_positives
from gen2embed.training.losses import ContrastiveTargets
from gen2embed.training.strategies import Replicated, sync_of
from gen2embed.training.sync import OneRank, Replicas
from gen2embed.training.sync import _seed as seed_of
from gen2embed.world.data import World

ADAPTER = Lora((*TARGETS, "qkv"), r=4, dropout=0.0, dora=True, vision=True)  # qkv: idle without pictures


class Forgetful(Replicas):
    """The mistakes: gradients that are not added up, and a learned temperature that every rank counts in full."""

    @contextmanager
    def reduce_gradients(self, parameters):
        yield

    def scale_for_sum(self, value):
        return value


def rank_main(where):
    """Leave what one of two ranks finds in a file. where: the world's folder."""
    world, rank = World(Path(where), **SIZE), int(os.environ["RANK"])
    dist.init_process_group("gloo")
    found = {name: cached(make_module(attached(ADAPTER), Replicas()), parts[rank])
             for name, parts in cases(world).items()}  # fmt: skip
    pairs = varied_pairs(world)
    for name, options in LOSSES.items():
        module = make_module(attached(LORA), Replicas(), **options)
        found[name] = cached(module, [pairs[:3], pairs[3:]][rank], known=several_positives(pairs))
    module = make_module(attached(LORA), Forgetful(), learn_temperature=True)
    found["mistakes"] = cached(module, [pairs[:3], pairs[3:]][rank], known=several_positives(pairs))
    rows = replace(world, subsets=("shape", "t2i")).pairs()
    for dtype in (torch.float64, torch.float32):
        found[f"trained, {dtype}"] = trained(rows, dtype, 2, Replicas(), rank)
    Replicas().seed(7, 3)
    found["random"] = torch.rand(3)
    found["texts"] = Replicas().gather_texts([f"row {rank}"] * (rank + 1))
    torch.save(found, f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_ranks(forked, world, tmp_path_factory):
    """What two real processes found."""
    world.pairs()  # drawn before they start
    folder = tmp_path_factory.mktemp("ranks")
    told = {"function": [__name__, "rank_main"], "folder": folder, "ranks": 2}
    assert forked(folder / "said", str(world.folder), **told) == [0, 0], (folder / "said.0").read_text()
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("case", ["texts here, pictures there", "identical positives", "no picture anywhere"])
def test_the_ranks_gradient_is_the_whole_batch(two_ranks, world, case):
    """A rank without a picture, chunks that are not as many on each, the same positive on both, and an idle tower."""
    here, there = cases(world)[case]
    expected = whole(make_module(attached(ADAPTER)), [*here, *there])
    for found in (ranks[case] for ranks in two_ranks):
        assert found["loss"].item() == pytest.approx(expected["loss"].item(), abs=1e-12)
        assert found["accuracy"] == expected["accuracy"]
        assert error(found, expected) < 1e-10
        assert set(found["gradients"]) == set(expected["gradients"])  # an optimiser must leave the others alone
    assert two_ranks[0][case]["loss"] == two_ranks[1][case]["loss"]
    assert any("visual" in name for name in expected["gradients"]) == (case != "no picture anywhere")
    if case == "identical positives":  # the same item on two ranks is no negative, and this is no small matter
        unmasked = whole(make_module(attached(ADAPTER), mask_identical=False), [*here, *there])
        assert error(unmasked, expected) > 0.01


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_on_two_ranks(two_ranks, world, loss):
    """Three pairs here and five there, with explicit negatives on both and a query whose two positives are apart."""
    expected = whole(make_module(attached(LORA), **LOSSES[loss]), varied_pairs(world))
    for found in (ranks[loss] for ranks in two_ranks):
        assert found["loss"].item() == pytest.approx(expected["loss"].item(), abs=1e-12)
        assert error(found, expected) < 1e-10
        assert ("loss.log_scale" in found["gradients"]) == LOSSES[loss].get("learn_temperature", False)


def test_the_mistakes_are_wrong_and_do_not_show(two_ranks, world):
    expected = whole(make_module(attached(LORA), learn_temperature=True), varied_pairs(world))
    for found in (ranks["mistakes"] for ranks in two_ranks):
        assert found["loss"].item() == pytest.approx(expected["loss"].item(), abs=1e-12)
        assert error(found, expected) > 0.1
    twice = sum(ranks["mistakes"]["gradients"]["loss.log_scale"] for ranks in two_ranks)
    assert twice.item() == pytest.approx(2 * expected["gradients"]["loss.log_scale"].item())


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-10), (torch.float32, 2e-4)])
def test_ten_steps_on_two_ranks_are_those_on_one(two_ranks, world, dtype, bound):
    """The largest difference of a weight; some move by hundredths, and AdamW enlarges what float32 rounds."""
    alone = trained(replace(world, subsets=("shape", "t2i")).pairs(), dtype)
    together = [ranks[f"trained, {dtype}"] for ranks in two_ranks]
    assert torch.equal(*together)
    assert (together[0] - alone).abs().max() < bound


def test_each_rank_has_its_own_random_numbers(two_ranks):
    OneRank().seed(7, 3)
    one = torch.rand(3)
    assert torch.equal(two_ranks[0]["random"], one)  # reproducible
    assert not torch.equal(two_ranks[1]["random"], one)
    for other in ((8, 3), (7, 4)):
        OneRank().seed(*other)
        assert not torch.equal(torch.rand(3), one)  # nor another seed's or step's


def test_texts_come_rank_by_rank(two_ranks):
    assert two_ranks[0]["texts"] == two_ranks[1]["texts"] == ["row 0", "row 1", "row 1"]


# --- python train.py strategy=ddp -----------------------------------------------------------------------------------

SGD = [  # moves by the gradient itself, so that a wrong factor shows
    "optim.optimizer._target_=torch.optim.SGD", "optim.optimizer.lr=0.02", "optim.scheduler.num_warmup_steps=0",
    "optim.gradient_clip=null",
]  # fmt: skip
SMALL = [
    "trainer=cpu", "data.rows=24", "benchmark.queries=8", "data.subsets=[shape,t2i]", "benchmark.subsets=[shape]",
    "mining.top_k=7", "batch.pairs=16", "batch.chunk=5", "bootstrap=20", "adapter.dropout=0", "trainer.max_steps=3",
    *SGD,
]  # fmt: skip
TWO = ["strategy=ddp", "trainer.devices=2"]
VALIDATED = [
    "validation=world", "validation.every_n_steps=2", "validation.keep=last", "validation.benchmark.queries=8",
    "validation.benchmark.subsets=[shape]", "trainer.log_every_n_steps=1",
]  # fmt: skip
ALL = [arg for arg in SMALL if not arg.startswith("adapter.")] + ["adapter=full", "trainer.max_steps=2"]


def validated(world):
    return [*VALIDATED, f"validation.benchmark.folder={world.folder.with_name('validation')}"]


@pytest.fixture
def launch(forked, world, tmp_path):
    """Run a script in a fork that starts the other rank; returns its exit code, and what both said."""

    def run(*args, script="train.py", **told):
        given = [*SMALL, *TWO, *folders(world), *args]
        (code,) = forked(tmp_path / "said", *given, script=script, folder=tmp_path, **told)
        return code, (tmp_path / "said.0").read_text()

    return run


@pytest.fixture(scope="module")
def alone(forked, world, tmp_path_factory):
    """The folder of the same run on one device."""
    return run_alone(forked, world, tmp_path_factory, *SMALL, *validated(world))


@pytest.fixture(scope="module")
def alone_in_full(forked, world, tmp_path_factory):
    return run_alone(forked, world, tmp_path_factory, *ALL)


def run_alone(forked, world, tmp_path_factory, *args):
    folder = tmp_path_factory.mktemp("alone")
    given = [*args, *folders(world), "output_dir=run"]
    assert forked(folder / "said", *given, script="train.py", folder=folder) == [0], (folder / "said.0").read_text()
    return folder / "run"


def adapter(folder):
    return load_file(folder / "adapter/adapter_model.safetensors")


def assert_close(found, expected):
    """1e-3 of the largest weight that moved: sums in other chunks, and AdamW divides by what is next to nothing."""
    moved = [name for name in expected if "lora_B" in name]  # from zero
    scale = max(expected[name].abs().max() for name in moved)
    assert scale > 1e-3
    assert max((found[name] - expected[name]).abs().max() for name in expected) / scale < 1e-3


def test_two_ranks_end_where_one_does(launch, alone, run_script, world, tmp_path):
    """Lightning starts rank 1; the folder's name has the time in it; an adapter is left on the way."""
    code, said = launch("callbacks.steps.every_n_steps=2")
    assert code == 0, said
    (folder,) = (tmp_path / "outputs/train").iterdir()
    assert len(list(tmp_path.rglob("results.json"))) == 1
    assert {"adapter", "config.yaml", "clusters.parquet", "metrics.csv"} <= {path.name for path in folder.iterdir()}
    assert re.search(r"ranks +│ 2, with 8 pairs each", said)
    assert said.count("pairs a step") == said.count("precision@1 in percent") == 1
    final = adapter(folder)
    assert_close(final, adapter(alone))
    assert not (alone / "steps").exists()  # off unless asked for

    assert sorted(path.name for path in (folder / "steps").iterdir()) == [RECORD, "2"]
    early = load_file(folder / "steps/2/adapter_model.safetensors")
    assert set(early) == set(final)
    assert not all(torch.equal(early[name], final[name]) for name in final)
    small = [f"benchmark.folder={world.folder}", "benchmark.queries=8", "benchmark.subsets=[shape]", "bootstrap=20"]
    again = run_script("eval.py", f"checkpoint={folder}/steps/2", *small)
    assert again.code == 0, again.err
    assert "not as the checkpoint" not in again.err


def test_ranks_that_start_together(alone, world, python, tmp_path):
    """torchrun: rank 1 waits for what rank 0 mines."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [python, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={port}"]
    command += [str(REPOSITORY / "train.py"), *SMALL, *TWO, *folders(world), "output_dir=run"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    outcome = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout.count("pairs a step") == outcome.stdout.count("precision@1 in percent") == 1
    assert_close(adapter(tmp_path / "run"), adapter(alone))


def test_a_broken_step_ends_every_rank(launch):
    code, said = launch("optim.optimizer.lr=inf")
    assert code == 1
    rows = re.findall(r"error: the loss is nan at step \d: the embeddings of (.*) are not finite", said)
    assert rows
    assert all(len(row.split(", ")) == 16 for row in rows)  # of both ranks
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        pytest.param(
            "rows",
            r"error: the clusters .* were mined from other data: 48 rows .*, and these are 40 rows",
            marks=pytest.mark.slow,
        ),
        ("step", "OSError: the disk of rank 1 is full"),
        pytest.param("killed", "rank 1 was ended by SIGKILL|terminated with code -9", marks=pytest.mark.slow),
        pytest.param("loader", r"DataLoader worker \(pid \d+\) is killed by signal", marks=pytest.mark.slow),
    ],
)
def test_a_fault_on_one_rank_ends_all_with_its_cause(launch, tmp_path, fault, message):
    """Within a minute of when it happens: the timeout is half an hour."""
    started = time.monotonic()
    without = ["mining=random", "mining.top_k=7", "batch.workers=1"]
    code, said = launch(*without, script="tests/helpers/faulty.py", environment={"FAULT": fault})
    assert code != 0
    assert re.search(message, " ".join(said.split())), said
    assert time.monotonic() - started < 150  # with the start of two processes, on a busy machine
    assert not list(tmp_path.rglob("adapter_model.safetensors"))


def test_ranks_that_were_given_other_things_do_not_start():
    given = [{"data": "48 rows"}, {"data": "40 rows"}]
    module = make_module(attached(LORA))
    for others, ends in ((given, True), (given[:1] * 2, False)):
        module.sync = SimpleNamespace(gather_texts=lambda own, there=others: [json.dumps(its) for its in there])
        if not ends:
            CheckRanksAgree(given[0]).on_train_start(None, module)
            continue
        with pytest.raises(UserError, match=r"rank 1 .*data is '48 rows'"):
            CheckRanksAgree(given[0]).on_train_start(None, module)


def under_torchrun(monkeypatch, processes):
    for name, value in (("TORCHELASTIC_RUN_ID", "none"), ("WORLD_SIZE", processes), ("RANK", "0"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            ["-m", *TWO, "seed=1,2"],
            r"multirun .*2 ranks .*-m, or choose",
        ),
        (
            ["strategy=ddp", "trainer.devices=3"],
            r"batch\.pairs=16 .*3 ranks.*; set .*24",
        ),
        ([*TWO, "trainer.strategy.timeout_seconds=0"], r"trainer\.strategy\.timeout_seconds .*got 0"),
        (
            [*TWO, "trainer.strategy.timeout=9"],
            r"trainer\.strategy\.timeout is unknown.*did you mean timeout_sec",
        ),
        (["trainer.devices=2"], r"DDPStrategy; choose strategy=ddp"),
        (["callbacks.steps.every_n_steps=0"], r"callbacks\.steps\.every_n_steps .*null.*got 0"),
        (["batch.chunk_tokens=0"], r"batch\.chunk_tokens .*null.*got 0"),
        (["shortcuts.retain_graphs=-1"], r"shortcuts\.retain_graphs .*null.*got -1"),
    ],
)
def test_bad_ranks(run_script, world, args, message):
    flags = [arg for arg in args if arg == "-m"]  # come first
    outcome = run_script(
        "train.py",
        *flags,
        *SMALL,
        f"data.folder={world.folder}",
        f"benchmark.folder={world.folder}",
        *args[len(flags) :],
    )
    assert outcome.code == 1
    assert re.search(message, " ".join(outcome.err.split())), outcome.err
    assert "Traceback" not in outcome.err


def test_bad_ranks_under_torchrun(run_script, monkeypatch):
    under_torchrun(monkeypatch, "2")
    outcome = run_script("train.py", *SMALL, *TWO)
    assert re.search("error: .* output_dir", " ".join(outcome.err.split()))
    outcome = run_script("train.py", *SMALL, "output_dir=run")
    assert re.search(r"error: 2 processes .*trainer\.devices .*1 ranks", " ".join(outcome.err.split()))


@pytest.fixture
def slurm(monkeypatch):
    """As srun starts the second of two processes."""
    job = {
        "NTASKS": 2,
        "NTASKS_PER_NODE": 2,
        "JOB_NAME": "train",
        "JOB_ID": 1234,
        "PROCID": 1,
        "LOCALID": 1,
        "NODEID": 0,
    }
    for name, value in job.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))


def test_bad_ranks_under_slurm(run_script, slurm, monkeypatch):
    outcome = run_script("train.py", *SMALL, *TWO)
    assert re.search("error: .* output_dir", " ".join(outcome.err.split()))
    outcome = run_script("train.py", *SMALL, "output_dir=run")
    assert re.search(r"error: 2 processes .*trainer\.devices .*1 ranks", " ".join(outcome.err.split()))
    monkeypatch.delenv("SLURM_NTASKS_PER_NODE")
    outcome = run_script("train.py", *SMALL, *TWO, "output_dir=run")
    assert "error: the trainer cannot be made: You set `--ntasks=2`" in outcome.err


def test_slurm_starts_the_ranks_and_requeues_by_itself(slurm, monkeypatch):
    monkeypatch.setattr(HydraConfig, "get", lambda: SimpleNamespace(mode=None))
    trainer = make_trainer(compose_shipped("train", ["trainer=cpu", *TWO, "output_dir=x"]))
    assert (trainer.global_rank, trainer.world_size) == (1, 2)
    environment = trainer.strategy.cluster_environment
    assert environment.creates_processes_externally
    assert not environment.auto_requeue


def test_a_rank_that_fails_ends_those_that_it_started(caplog):
    strategy, sent = Replicated(), []
    codes = (None, 1, -signal.SIGKILL)  # it runs, it said itself what was wrong, it could say nothing
    procs = [SimpleNamespace(poll=lambda code=code: code) for code in codes]
    strategy._launcher = SimpleNamespace(kill=sent.append, procs=procs)
    strategy.on_exception(OSError("disk full"))
    assert sent == [signal.SIGKILL]
    assert [record.getMessage() for record in caplog.records] == [
        "rank 3 was ended by SIGKILL, as the system does where memory is short"
    ]


def test_a_rank_that_does_not_come(monkeypatch):
    def setup(_):
        raise dist.DistStoreError("1/2 clients joined")

    monkeypatch.setattr(DDPStrategy, "setup_distributed", setup)
    with pytest.raises(UserError, match=r"9 seconds; .*raise trainer\.strategy"):
        Replicated(9).setup_distributed()


def test_strategies():
    assert isinstance(sync_of(Replicated()), Replicas)
    with pytest.raises(UserError, match=r"FSDPStrategy; choose strategy=ddp .*strategy=single"):
        sync_of(FSDPStrategy())


def test_mining_is_awaited(world, tmp_path):
    pairs, model = world.pairs(), SimpleNamespace(fingerprint={})
    with pytest.raises(UserError, match=r"parquet .*0\.2 seconds; set data\.clusters"):
        await_mined(tmp_path, model, pairs, Random(top_k=5), 0.2)
    mined = mine_once(tmp_path, model, pairs, Random(top_k=5), None, [])
    assert await_mined(tmp_path, model, pairs, Random(top_k=5), 0.2) == mined


def test_saving_on_the_way(tmp_path):
    embedder = attached(Lora(TARGETS, r=4), torch.float32)
    module = make_module(embedder)
    callback = SaveSteps(tmp_path, 5)
    for step, rank in ((4, 0), (5, 1), (10, 0), (10, 0)):
        callback.on_train_batch_end(SimpleNamespace(global_step=step, is_global_zero=rank == 0), module)
    assert sorted(path.name for path in tmp_path.iterdir()) == [RECORD, "10"]  # and nothing half-written
    loaded = Embedder.from_pretrained(TINY, adapter=tmp_path / "10", device="cpu")
    embedder.backbone.full.eval()
    torch.testing.assert_close(loaded.encode("a red star"), embedder.encode("a red star"), atol=1e-6, rtol=0)


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path):
    def broken(folder):
        (folder / "half").touch()
        raise OSError("disk full")

    replace_folder(tmp_path / "a", lambda folder: (folder / "old").touch())
    with pytest.raises(OSError, match="disk full"):
        replace_folder(tmp_path / "a", broken)
    assert sorted(path.name for path in tmp_path.rglob("*")) == [RECORD, "a", "old"]
    replace_folder(tmp_path / "a", lambda folder: (folder / "new").touch())
    assert sorted(path.name for path in tmp_path.rglob("*")) == [RECORD, "a", "new"]


# --- DeepSpeed: the strategies deepspeed_zero1, 2 and 3 -------------------------------------------------------------

ZERO = ["strategy=deepspeed_zero3", "trainer.devices=2"]
MIXED = "texts here, pictures there"


def start_zero(forked, world, folder, work, *runs):
    """What two ranks of DeepSpeed found, by stage and work. runs: of `zero_ranks.rank_main`."""
    world.pairs()  # drawn before they start
    told = {"function": ["zero_ranks", "rank_main"], "folder": folder, "ranks": 2}
    codes = forked(folder / "said", str(world.folder), *map(json.dumps, [work, *runs]), **told)
    assert codes == [0, 0], (folder / "said.0").read_text()
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


@pytest.fixture(scope="module")
def zero(forked, world, tmp_path_factory):
    """What two processes found with every stage; and the folder that they worked in."""
    folder = tmp_path_factory.mktemp("zero")
    work = {"exact": zero_ranks.STAGES, "full": [3], "continued": [3], "recomputed": [3]}  # the others are slow
    return start_zero(forked, world, folder, work), folder


@pytest.fixture(scope="module")
def zero_runs(forked, world, tmp_path_factory):
    """The folder of runs of train.py on two processes: one whole, one that goes on after a stop, one of all weights."""
    folder = tmp_path_factory.mktemp("zero_runs")
    run = [*SMALL, *ZERO, *folders(world), *validated(world), "callbacks.steps.every_n_steps=2",
           "callbacks.checkpoints.every_n_steps=2"]  # fmt: skip
    runs = [
        [*run, "output_dir=trained"],
        {"folder": "trained", "into": "continued", "step": 2},
        [*run, "output_dir=continued"],
        [*ALL, *ZERO, *folders(world), "output_dir=full"],
    ]
    start_zero(forked, world, folder, {}, *runs)
    return folder


def numbered(pairs):
    numbers = {}
    return torch.tensor([numbers.setdefault(pair.positive.key, len(numbers)) for pair in pairs])


def off(found, expected):
    """The largest difference, in units of the largest gradient."""
    there = [name for name, gradient in expected.items() if gradient is not None]
    scale = max(expected[name].abs().max() for name in there)
    assert scale > 1e-4
    return max((found[name] - expected[name]).abs().max() for name in there) / scale


def plain(adapter, sides_of):
    """The oracle in float64: one process, one backward pass. sides_of: queries, candidates and these as numbers."""
    (embedder, _), loss = zero_ranks.fresh(adapter, 3), zero_ranks.learning().double()
    embedder.backbone.full.double()
    queries, candidates, numbers = sides_of(embedder)
    value = loss(queries, candidates, ContrastiveTargets(numbers, numbers[:, None]))
    value.backward()
    gradients = {f"model.{name}": p.grad for name, p in embedder.backbone.full.named_parameters() if p.requires_grad}
    return value.item(), {**gradients, "loss.log_scale": loss.log_scale.grad}


def one_by_one(pairs):
    def sides(embedder):
        queries = torch.cat([embedder.embed([pair.query], "query") for pair in pairs])
        return queries, torch.cat([embedder.embed([pair.positive], "candidate") for pair in pairs]), numbered(pairs)

    return sides


def replayed(batches):
    """Chunks of both ranks under the random numbers that these had."""

    def sides(embedder):
        parts = []
        for rank, batch in enumerate(batches):
            seed_of(zero_ranks.SEED, 0, rank)
            rows = torch.cat([embedder.embed_chunk(chunk, batch.pictures) for chunk in batch.chunks])
            parts.append(rows[batch.order].chunk(2))
        queries, candidates = map(torch.cat, zip(*parts, strict=True))
        return queries, candidates, torch.cat([batch.positives for batch in batches])

    return sides


def norm(gradients):
    return torch.stack([gradient.norm() for gradient in gradients.values() if gradient is not None]).norm()


@pytest.fixture(scope="module")
def expected(world):
    return {name: plain(zero_ranks.DORA, one_by_one([*a, *b])) for name, (a, b) in cases(world).items()}


STAGES = pytest.mark.parametrize("stage", zero_ranks.STAGES)


@STAGES
def test_zero_gives_the_whole_batch(zero, expected, stage):
    """Several chunks a rank, not as many on each; a learned temperature; float32 against float64."""
    mistakes = [MIXED] * 2 if stage == zero_ranks.MISTAKEN else []
    names = ["identical positives", MIXED, *mistakes, "no picture anywhere"]  # of `zero_ranks.exact`
    for found in (ranks[stage, "exact"] for ranks in zero[0]):
        errors = []
        for step, name in zip(found["steps"], names, strict=True):
            loss, gradients = expected[name]
            assert step["loss"] == pytest.approx(loss, abs=1e-5)
            errors.append(off(step["gradients"], gradients).item())
            assert abs(gradients["loss.log_scale"]) > 0.1
        for index in (0, 1, -1):
            gradients = expected[names[index]][1]
            assert errors[index] < 2e-5
            assert found["steps"][index]["norm"] == pytest.approx(norm(gradients).item(), rel=1e-4)
            difference = found["steps"][index]["gradients"]["loss.log_scale"] - gradients["loss.log_scale"]
            assert abs(difference) < 1e-4
        if mistakes:
            assert errors[2] == pytest.approx(0.5, abs=0.01)  # not multiplied by the number of ranks
            assert errors[3] > 0.5  # reduced after every chunk


@STAGES
def test_zero_steps_by_the_bounded_gradient(zero, expected, stage):
    gradients = expected["no picture anywhere"][1]
    idle = [name for name, gradient in gradients.items() if gradient is None]
    assert len(idle) == 6  # the vision tower's
    for found in (ranks[stage, "exact"] for ranks in zero[0]):
        moved = {name: (found["before"][name] - found["after"][name]) * norm(gradients) for name in gradients}
        assert off(moved, gradients) < 2e-5
        assert all(moved[name].abs().max() == 0 for name in idle)  # nor by the gradient of the step before


def test_zero_aligns_chunks(zero):
    """Without it, stage 3 hangs: a rank would wait for weights that the other one does not use."""
    steps = [ranks[3, "exact"]["steps"][1] for ranks in zero[0]]
    assert [step["unaligned"] for step in steps] == [[False] * 2, [False, True, True, True]]
    assert [[chunk.pictured for chunk in step["batch"].chunks] for step in steps] == [[False] * 2 + [True] * 3] * 2
    for step in steps:
        sizes = [chunk.rows for chunk in step["batch"].chunks]
        assert len(set(step["batch"].order.tolist())) == len(step["batch"].order) <= sum(sizes)


def test_zero_trains_everything(zero, world):
    here, there = cases(world)["texts here, pictures there"]
    _, gradients = plain(zero_ranks.FULL, one_by_one([*here, *there]))
    assert sum("visual" in name for name in gradients) > 30
    for found in (ranks[3, "full"]["steps"][0]["gradients"] for ranks in zero[0]):
        assert off(found, gradients) < 2e-5


def check_continued(found, folder, stage):
    """Dropout is replayed, and a run that goes on from a checkpoint ends with the bits of one that did not stop."""
    steps = [ranks[stage, "continued"][0]["steps"][0] for ranks in found]
    loss, gradients = plain(zero_ranks.DROPOUT, replayed([step["batch"] for step in steps]))
    for step in steps:
        assert step["loss"] == pytest.approx(loss, abs=1e-5)
        assert off(step["gradients"], gradients) < 5e-5
    for whole_run, continued in (ranks[stage, "continued"] for ranks in found):
        left = zero_ranks.STEPS - zero_ranks.KEPT
        assert [len(run["steps"]) for run in (whole_run, continued)] == [zero_ranks.STEPS, left]
        after = whole_run["after"]
        assert max((after[name] - before).abs().max() for name, before in whole_run["before"].items()) > 1e-3
        assert all(torch.equal(continued["after"][name], tensor) for name, tensor in after.items())
    kept = folder / "kept" / f"stage{stage}.ckpt"
    assert sum(file.stat().st_size for file in kept.rglob("*")) < 1e6  # of 5.6 MB: what is frozen is not in it


def test_zero_replays_dropout_and_goes_on_to_the_bit(zero):
    check_continued(*zero, 3)


def test_zero_computes_layers_again(zero):
    """Gradient checkpointing, with dropout."""
    for once, again in ((ranks[3, "continued"][0], ranks[3, "recomputed"]) for ranks in zero[0]):
        chunks = len(again["steps"][0]["batch"].chunks)
        assert again["calls"] == 3 * chunks  # without a graph, with one, and in its backward pass
        assert off(again["steps"][0]["gradients"], once["steps"][0]["gradients"]) < 1e-5


@pytest.mark.slow
def test_zero_goes_on_in_the_other_stages(forked, world, tmp_path):
    found = start_zero(forked, world, tmp_path, {"continued": [1, 2]})
    for stage in (1, 2):
        check_continued(found, tmp_path, stage)


@pytest.mark.slow
def test_zero_from_end_to_end(zero_runs, alone, run_script, world, tmp_path):
    """`python train.py strategy=deepspeed_zero3` ends where one device does, and leaves whole adapters."""
    folder = zero_runs / "trained"
    final = adapter(folder)
    assert_close(final, adapter(alone))
    early = load_file(folder / "steps/2/adapter_model.safetensors")
    assert {name: tensor.shape for name, tensor in early.items()} == {name: t.shape for name, t in final.items()}
    small = [f"benchmark.folder={world.folder}", "benchmark.queries=8", "benchmark.subsets=[shape]", "bootstrap=20"]
    again = run_script("eval.py", f"checkpoint={folder}/adapter", "output_dir=again", *small)
    assert again.code == 0, again.err
    results = [json.loads((made / "results.json").read_text()) for made in (folder, tmp_path / "again")]
    assert results[0]["tasks"] == results[1]["tasks"]  # of the model that was put together again


@pytest.mark.slow
def test_zero_is_validated(zero_runs, alone):
    scores = []
    for folder in (zero_runs / "trained", alone):
        with (folder / "metrics.csv").open() as lines:
            rows = [row for row in csv.DictReader(lines) if row["validation/mean"]]
        scores.append({row["step"]: float(row["validation/mean"]) for row in rows})
    assert scores[0] == scores[1]
    assert set(scores[0]) == {"2", "3"}


@pytest.mark.slow
def test_zero_goes_on_by_itself(zero_runs):
    """`resume: auto`, with `python train.py` and the same folder."""
    said = " ".join((zero_runs / "said.0").read_text().split())
    assert said.count("continuing from step 2 of 3") == 1
    there, here = (adapter(zero_runs / name) for name in ("trained", "continued"))
    assert all(torch.equal(here[name], tensor) for name, tensor in there.items())
    early = load_file(zero_runs / "trained/steps/2/adapter_model.safetensors")
    assert not all(torch.equal(early[name], tensor) for name, tensor in there.items())


@pytest.mark.slow
def test_zero_leaves_the_whole_model(zero_runs, alone_in_full):
    """adapter=full, which is divided among the ranks in stage 3."""
    found, expected = (load_file(run / "adapter/model.safetensors") for run in (zero_runs / "full", alone_in_full))
    base = load_file(TINY / "model.safetensors")
    assert set(found) == set(expected)
    moved = max((tensor - base[name]).abs().max() for name, tensor in expected.items())
    assert moved > 1e-3
    assert max((found[name] - tensor).abs().max() for name, tensor in expected.items()) < 1e-3 * moved


def test_zero_on_a_cpu(run_script):
    for strategy in ("deepspeed_zero1", "deepspeed_zero2", "deepspeed_zero3"):
        outcome = run_script("train.py", *SMALL, f"strategy={strategy}")
        needs = "DeepSpeed needs CUDA GPUs; choose strategy=ddp"
        said = f"error: strategy={strategy} cannot run on CPUAccelerator: {needs}"
        assert said in " ".join(outcome.err.split())
    outcome = run_script("mine.py", "trainer=cpu", "strategy=deepspeed_zero2")
    assert re.search("error: .*Zero; choose strategy=ddp", " ".join(outcome.err.split()))


def test_zero_without_deepspeed(run_script, monkeypatch):
    monkeypatch.setattr("gen2embed.training.zero.find_spec", lambda _: None)
    outcome = run_script("train.py", *SMALL, "strategy=deepspeed_zero2")
    assert re.search(
        r"strategy=deepspeed_zero2 needs deepspeed, which is not installed: pip install 'gen2embed\[deepspeed\]'",
        " ".join(outcome.err.split()),
    )


def test_zero_refuses_float16():
    trainer = Trainer(accelerator="cpu", devices=2, strategy=zero_ranks.OnCpu(2), precision="16-mixed", logger=False)
    with pytest.raises(UserError, match=r"16-mixed; set trainer\.precision .*32-true"):
        sync_of(trainer.strategy)


PRECISIONS = {  # what the weights are in
    "32-true": {torch.float32}, "bf16-mixed": {torch.float32}, "bf16-true": {torch.bfloat16},
    "base": {torch.bfloat16, torch.float32},
}  # fmt: skip


@pytest.mark.slow
def test_zero_in_every_precision(forked, world, tmp_path):
    """bfloat16 rounds, in every stage alike; `base` is a frozen bfloat16 model under float32 adapters."""
    found = start_zero(forked, world, tmp_path, {"precise": zero_ranks.STAGES})
    here, there = cases(world)["texts here, pictures there"]
    _, gradients = plain(zero_ranks.DORA, one_by_one([*here, *there]))
    for ranks in found:
        for stage in zero_ranks.STAGES:
            for precision, run in ranks[stage, "precise"].items():
                wrong = off(run["steps"][0]["gradients"], gradients).item()
                print(stage, precision, f"{wrong:.1e}")
                types = {parameter.dtype for parameter in run["after"].values()}
                assert types == PRECISIONS[precision]
                assert (wrong < 2e-5) == (precision == "32-true")
                assert wrong < 0.2, (stage, precision)
