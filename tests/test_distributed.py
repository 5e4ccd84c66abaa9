"""Several ranks: their gradient is the whole batch's, a run on two is a run on one, and nobody waits for ever."""

import os
import re
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from conftest import REPOSITORY, TINY
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy
from safetensors.torch import load_file
from test_training import TARGETS, attached
from torch import Tensor

from gen2embed import Embedder, Item, UserError
from gen2embed.callbacks import SaveSteps
from gen2embed.data.datamodules import Collate
from gen2embed.encoder.adapter import Lora
from gen2embed.files import replace_folder
from gen2embed.lit import ContrastiveModule, describe
from gen2embed.losses import InfoNCE
from gen2embed.miners.run import await_mined, mine_once
from gen2embed.miners.shuffled import Random
from gen2embed.presets import compose_shipped
from gen2embed.runs import make_trainer
from gen2embed.sync import OneRank, Replicas, Replicated, sync_of
from gen2embed.types import Pair

ADAPTER = Lora((*TARGETS, "qkv"), r=4, dropout=0.0, dora=True, vision=True)  # qkv: idle without pictures
LOSS = InfoNCE(0.05)


def cases(world):
    """The pairs of rank 0 and of rank 1."""
    pairs = replace(world, subsets=("shape", "t2i", "change")).pairs()
    texts = [
        Pair(Item.of(f"a {word} star"), Item.of(word), "text", row) for row, word in enumerate(("red", "blue", "big"))
    ]
    return {
        "texts here, pictures there": (texts[:2], [pairs[index] for index in (0, 24, 25, 50, 51, 52)]),
        "identical positives": (pairs[:4], pairs[4:8]),
        "no picture anywhere": (texts[:2], texts[2:]),
    }


def cached(pairs, sync):
    """What a rank has after it accumulated its share."""
    module = ContrastiveModule(attached(ADAPTER), LOSS, sync, 7, None, None)
    module.manual_backward = Tensor.backward
    batch = Collate(module.embedder.build, 3, 2)(pairs)
    metrics = module.accumulate(batch)
    gradients = {name: parameter.grad for name, parameter in module.model.named_parameters() if parameter.requires_grad}
    return {**metrics, "gradients": gradients, "chunks": len(batch.chunks)}


def rank_main(rank, world, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    found = {name: cached(parts[rank], Replicas()) for name, parts in cases(world).items()}
    Replicas().seed(7, 3)
    found["random"] = torch.rand(3)
    found["texts"] = Replicas().gather_texts([f"row {rank}"] * (rank + 1))
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_ranks(world, tmp_path_factory):
    """What two real processes found."""
    folder = tmp_path_factory.mktemp("ranks")
    world.pairs()  # drawn before they start
    torch.multiprocessing.spawn(rank_main, (world, folder), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def whole(pairs, identical):
    """The oracle: one process, one plain backward pass, no chunk apart from pictures and texts."""
    embedder = attached(ADAPTER)
    sides = [[embedder.embed([getattr(pair, side)], role) for pair in pairs]
             for side, role in (("query", "query"), ("positive", "candidate"))]  # fmt: skip
    queries, candidates = (torch.cat(side) for side in sides)
    loss = LOSS(queries, candidates, identical, identical)
    loss.backward()
    gradients = {name: p.grad for name, p in embedder.backbone.full.named_parameters() if p.requires_grad}
    return loss.detach(), describe(queries, candidates, identical)["accuracy"], gradients


def same(pairs):
    keys = [pair.positive.key for pair in pairs]
    return torch.tensor([[a == b for b in keys] for a in keys])


def error(found, expected):
    """The largest difference, in units of the largest gradient."""
    there = [name for name, gradient in expected.items() if gradient is not None]
    scale = max(expected[name].abs().max() for name in there)
    assert scale > 1e-4
    return max((found[name] - expected[name]).abs().max() for name in there) / scale


@pytest.mark.parametrize("case", ["texts here, pictures there", "identical positives", "no picture anywhere"])
def test_the_ranks_gradient_is_the_whole_batch(two_ranks, world, case):
    parts = cases(world)[case]
    pairs = [*parts[0], *parts[1]]
    loss, accuracy, expected = whole(pairs, same(pairs))
    idle = [name for name, gradient in expected.items() if gradient is None]
    assert bool(idle) == (case == "no picture anywhere")
    for found in (ranks[case] for ranks in two_ranks):
        assert found["loss"].item() == pytest.approx(loss.item(), abs=1e-12)
        assert found["accuracy"] == accuracy
        assert error(found["gradients"], expected) < 1e-10
        assert all(found["gradients"][name] is None for name in idle)  # an optimiser must leave them alone
    assert two_ranks[0][case]["loss"] == two_ranks[1][case]["loss"]
    if case == "texts here, pictures there":
        assert two_ranks[0][case]["chunks"] != two_ranks[1][case]["chunks"]
        assert any("visual" in name for name in expected)
    if case == "identical positives":  # the same item on two ranks is no negative, and this is no small matter
        apart = same(pairs)
        apart[:4, 4:] = apart[4:, :4] = False
        assert apart.sum() < same(pairs).sum()
        *_, without = whole(pairs, apart)
        assert error(without, expected) > 0.01


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


@pytest.fixture
def launch(world, tmp_path):
    def run(*args, by=()):
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        command = [
            sys.executable,
            *by,
            str(REPOSITORY / "train.py"),
            *SMALL,
            *TWO,
            f"data.folder={world.folder}",
            f"benchmark.folder={world.folder}",
        ]
        return subprocess.run(
            [*command, *args], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
        )

    return run


@pytest.fixture
def alone(run_script, world):
    """The adapter of the same run on one device."""

    def run(folder):
        outcome = run_script(
            "train.py",
            *SMALL,
            f"data.folder={world.folder}",
            f"benchmark.folder={world.folder}",
            f"output_dir={folder}",
        )
        assert outcome.code == 0, outcome.err
        return load_file(folder / "adapter/adapter_model.safetensors")

    return run


def assert_close(found, expected):
    """float32 sums in another order: 1e-4 of the largest weight that moved."""
    moved = [name for name in expected if "lora_B" in name]  # from zero
    scale = max(expected[name].abs().max() for name in moved)
    assert scale > 1e-3
    assert max((found[name] - expected[name]).abs().max() for name in expected) / scale < 1e-4


def test_two_ranks_end_where_one_does(launch, alone, run_script, world, tmp_path):
    """Lightning starts rank 1; the folder's name has the time in it; an adapter is left on the way."""
    outcome = launch("callbacks.steps.every_n_steps=2")
    assert outcome.returncode == 0, outcome.stderr
    (folder,) = (tmp_path / "outputs/train").iterdir()
    assert len(list(tmp_path.rglob("results.json"))) == 1
    assert {"adapter", "config.yaml", "clusters.parquet", "metrics.csv"} <= {path.name for path in folder.iterdir()}
    assert re.search(r"ranks +│ 2, with 8 pairs each", outcome.stdout)
    assert outcome.stdout.count("negatives a query") == outcome.stdout.count("precision@1 in percent") == 1
    final = load_file(folder / "adapter/adapter_model.safetensors")
    assert_close(final, alone(tmp_path / "alone"))
    assert not (tmp_path / "alone/steps").exists()  # off unless asked for

    assert [path.name for path in (folder / "steps").iterdir()] == ["2"]
    early = load_file(folder / "steps/2/adapter_model.safetensors")
    assert set(early) == set(final)
    assert not all(torch.equal(early[name], final[name]) for name in final)
    small = [f"benchmark.folder={world.folder}", "benchmark.queries=8", "benchmark.subsets=[shape]", "bootstrap=20"]
    again = run_script("eval.py", f"checkpoint={folder}/steps/2", *small)
    assert again.code == 0, again.err
    assert "not as the checkpoint" not in again.err


def test_ranks_that_start_together(launch, alone, tmp_path):
    """torchrun: rank 1 waits for what rank 0 mines."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    by = ("-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={port}")
    outcome = launch("output_dir=run", by=by)
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout.count("negatives a query") == outcome.stdout.count("precision@1 in percent") == 1
    assert_close(load_file(tmp_path / "run/adapter/adapter_model.safetensors"), alone(tmp_path / "alone"))


def test_a_broken_step_ends_every_rank(launch):
    outcome = launch("optim.optimizer.lr=inf")
    assert outcome.returncode == 1
    rows = re.findall(r"error: the loss is nan at step \d: the embeddings of (.*) are not finite", outcome.stderr)
    assert rows
    assert all(len(row.split(", ")) == 16 for row in rows)  # of both ranks
    assert "Traceback" not in outcome.stderr


def under_torchrun(monkeypatch, processes):
    for name, value in (("TORCHELASTIC_RUN_ID", "none"), ("WORLD_SIZE", processes), ("RANK", "0"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            ["-m", *TWO, "seed=1,2"],
            r"a multirun uses one device, and here each of 2 ranks .* without -m, or choose",
        ),
        (
            ["strategy=ddp", "trainer.devices=3"],
            r"batch.pairs=16 cannot be split into whole clusters of 8 pairs on 3 ranks; set it to 24",
        ),
        ([*TWO, "trainer.strategy.timeout_seconds=0"], r"trainer.strategy.timeout_seconds is above 0; got 0"),
        (
            [*TWO, "trainer.strategy.timeout=9"],
            r"trainer.strategy.timeout is unknown; .*\(did you mean timeout_sec",
        ),
        (["trainer.devices=2"], r"training cannot use DDPStrategy; choose strategy=ddp for several devices"),
        (["callbacks.steps.every_n_steps=0"], r"callbacks.steps.every_n_steps is at least 1, or null for none; got 0"),
        (["batch.candidate_chunk=0"], r"batch.candidate_chunk, which batch.chunk sets too, is at least 1; got 0"),
        (["batch.query_chunk=x"], r"batch.query_chunk='x' is not valid"),
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
    assert "error: processes that start together need one folder" in outcome.err
    outcome = run_script("train.py", *SMALL, "output_dir=run")
    assert "error: 2 processes were started together, and trainer.devices and num_nodes make 1 ranks" in outcome.err


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
    assert "error: processes that start together need one folder" in outcome.err
    outcome = run_script("train.py", *SMALL, "output_dir=run")
    assert "error: 2 processes were started together, and trainer.devices and num_nodes make 1 ranks" in outcome.err
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


def test_a_rank_that_fails_ends_those_that_it_started():
    strategy, sent = Replicated(), []
    strategy._launcher = SimpleNamespace(kill=sent.append)
    strategy.on_exception(OSError("disk full"))
    assert sent == [signal.SIGKILL]


def test_a_rank_that_does_not_come(monkeypatch):
    def setup(_):
        raise dist.DistStoreError("1/2 clients joined")

    monkeypatch.setattr(DDPStrategy, "setup_distributed", setup)
    with pytest.raises(UserError, match=r"not every rank was there after 9 seconds; .* raise trainer.strategy"):
        Replicated(9).setup_distributed()


def test_strategies():
    assert isinstance(sync_of(Replicated()), Replicas)
    with pytest.raises(UserError, match=r"training cannot use FSDPStrategy; choose strategy=ddp .* strategy=single"):
        sync_of(FSDPStrategy())


def test_mining_is_awaited(world, tmp_path):
    pairs, model = world.pairs(), SimpleNamespace(fingerprint={})
    with pytest.raises(UserError, match=r"rank 0 did not mine .*parquet within 0.2 seconds; set data.clusters to what"):
        await_mined(tmp_path, model, pairs, Random(top_k=5), 0.2)
    mined = mine_once(tmp_path, model, pairs, Random(top_k=5), None, [])
    assert await_mined(tmp_path, model, pairs, Random(top_k=5), 0.2) == mined


def test_saving_on_the_way(tmp_path):
    embedder = attached(Lora(TARGETS, r=4), torch.float32)
    module = ContrastiveModule(embedder, LOSS, OneRank(), 0, None, None)
    callback = SaveSteps(tmp_path, 5)
    for step, rank in ((4, 0), (5, 1), (10, 0), (10, 0)):
        callback.on_train_batch_end(SimpleNamespace(global_step=step, is_global_zero=rank == 0), module)
    assert [path.name for path in tmp_path.iterdir()] == ["10"]  # and nothing half-written
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
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "old"]
    replace_folder(tmp_path / "a", lambda folder: (folder / "new").touch())
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "new"]
