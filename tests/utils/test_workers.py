"""What loaders' workers hold is bounded, said and checked; a worker that finds no room is an error with the remedy."""

import os
import re
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from conftest import noise
from PIL import Image
from steps import collating

from gen2embed import UserError
from gen2embed.cli.checks.environment import check_shared_memory
from gen2embed.config.messages import explain
from gen2embed.encoding import parts
from gen2embed.encoding.batch import Chunk, ChunkLimit, Prepared, tensors_of, to_shared_memory
from gen2embed.encoding.engine import Engine
from gen2embed.training.batches import ClusterBatchSampler, RankBatchSampler
from gen2embed.training.datamodule import Collate, PairDataModule, largest_batch
from gen2embed.types import Item, Pair
from gen2embed.utils import workers
from gen2embed.utils.workers import TAKEN, Prefetch, bytes_of, explained, make_loader

GIB = 2**30


@pytest.mark.parametrize(
    ("workers", "prefetch", "processes", "each"),
    [(0, None, 0, 0), (0, 3, 0, 0), (8, None, 8, 1), (8, 3, 3, 1), (8, 16, 8, 2), (8, 12, 8, 1), (1, 4, 1, 4)],
)
def test_no_more_than_prefetch_is_ahead(workers, prefetch, processes, each):
    ahead = Prefetch(workers, prefetch)
    assert (ahead.processes, ahead.per_process) == (processes, each)
    assert ahead.processes * ahead.per_process <= (prefetch or workers)
    assert ahead.held == (processes * each + TAKEN if processes else 0)


@pytest.mark.parametrize(("workers", "prefetch"), [(-1, None), (2, 0)])
def test_bad_numbers(workers, prefetch):
    with pytest.raises(UserError, match=r"engine\.(workers|prefetch) is at least"):
        Prefetch(workers, prefetch, "engine")


@pytest.mark.parametrize(("free", "remedy"), [(7.5, "batch.prefetch=5"), (1, "batch.workers=0")])
def test_too_little_room_is_one_error(monkeypatch, free, remedy):
    monkeypatch.setattr(workers, "room", lambda: ("/dev/shm", int(free * GIB)))
    Prefetch(8).check(int(free * GIB) // 10)
    Prefetch(0).check(10 * GIB)
    with pytest.raises(UserError, match=r"20.0 GiB in /dev/shm \(10 batches of 1.0 GiB on 2 ranks\).*docker") as raised:
        Prefetch(8).check(GIB, ranks=2)
    fits = Prefetch(8, 1 if free > 6 else None)
    if free > 6:
        assert "batch.prefetch=1" in str(raised.value)
        fits.check(GIB, ranks=2)
    with pytest.raises(UserError, match=remedy):
        Prefetch(8).check(GIB)


def test_the_room_is_the_smaller_of_shared_memory_and_memory(monkeypatch, tmp_path):
    monkeypatch.setattr(workers, "SHARED", tmp_path)
    monkeypatch.setattr(workers.shutil, "disk_usage", lambda _: SimpleNamespace(free=5))
    for memory, expected in ((7, (str(tmp_path), 5)), (3, ("memory", 3))):
        monkeypatch.setattr(workers, "free_bytes", lambda _, memory=memory: memory)
        assert workers.room() == expected
    monkeypatch.setattr(workers, "SHARED", tmp_path / "none")
    assert workers.room() == ("memory", 3)


# --- what is held ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrueSizes:
    """Prepares pictures of 448x448 as Qwen2-VL takes them in bfloat16, and does not look at them."""

    def __call__(self, items):
        pictures = {
            str(number): {"pixel_values": torch.ones(1024, 1176, dtype=torch.bfloat16)}
            for number, (item, _) in enumerate(items)
            if item.pictures
        }
        return Prepared([Chunk({"input_ids": torch.ones(1, 64 * len(items))}, len(items), True)],
                        torch.arange(len(items)), pictures)  # fmt: skip


def shared_bytes():
    """What this process's loaders hold in /dev/shm, by the names and sizes of the files."""
    family = {os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))}
    held = 0
    for file in Path("/dev/shm").glob("torch_*"):
        if int(file.name.split("_")[1]) in family:
            try:
                stat = file.stat()
                held += max(stat.st_size, stat.st_blocks * 512)
            except FileNotFoundError:
                continue
    return held


def most_held(loader, steps):
    """The most bytes in /dev/shm over some steps, each slow enough that the workers get as far as they may."""
    most = before = 0
    batches = iter(loader)
    held = [next(batches), next(batches)]  # one in use, and the next, as Lightning holds them
    for _ in range(steps):
        until = time.monotonic() + 60
        still = 0
        while still < 4 and time.monotonic() < until:
            time.sleep(0.1)
            now = shared_bytes()
            still, before = (still + 1 if now == before else 0), now
            most = max(most, now)
        held = [held[1], next(batches)]
    return most


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="shared memory lies elsewhere")
@pytest.mark.parametrize("pairs", [8, pytest.param(256, marks=pytest.mark.slow)])
def test_workers_hold_what_the_table_says(tmp_path, pairs):
    """Eight workers, pictures of 448x448; by default of torch they would hold 16 batches ahead."""
    Image.new("RGB", (448, 448), "red").save(tmp_path / "red.jpg")
    rows = [Pair(Item.create(str(row), tmp_path / "red.jpg"), Item.create("red"), "a", row) for row in range(4 * pairs)]
    share, collate = RankBatchSampler(ClusterBatchSampler([], len(rows), pairs, 0)), Collate(TrueSizes())
    ahead = Prefetch(8, 2)
    size = largest_batch(rows, share, collate)
    assert size == pytest.approx(pairs * 1024 * 1176 * 2, rel=0.01)
    most = most_held(PairDataModule(rows, share, collate, ahead).train_dataloader(), 3)
    assert ahead.held * size * 0.9 < most <= ahead.held * size
    table = re.search(
        r"(\d) of 8 workers, which hold at most (\d) batches of about .*, (\S+ .iB) in", ahead.describe(size)
    )
    assert (table[1], table[2]) == ("2", "4")


def test_pictures_travel_in_the_type_of_the_model(tiny):
    """Half as large for a model in bfloat16, and the same bits as those that are cast for the model."""
    items = [(Item.create("what is it?", noise(1)), "query"), (Item.create("", noise(2)), "query")]
    for packs in (True, False):
        wide, narrow = (
            replaced(tiny.prepare, packs, dtype)(items, ChunkLimit(512)) for dtype in (torch.float32, torch.bfloat16)
        )
        floats = [[tensor for tensor in tensors_of(side) if tensor.is_floating_point()] for side in (wide, narrow)]
        assert len(floats[0]) == len(floats[1]) > 0
        for one, other in zip(*floats, strict=True):
            assert one.dtype == torch.float32
            assert torch.equal(one.to(torch.bfloat16), other)
            assert other.nbytes == one.nbytes / 2
    assert tiny.prepare.dtype == tiny.backbone.dtype == torch.float32


def replaced(prepare, packs, dtype):
    return type(prepare)(prepare.build, packs, prepare.branches, dtype)


def test_the_largest_batch_counts_pictures(tiny):
    """One subset has pictures, the other none; batches of one subset differ, and the larger one counts."""
    pairs = [Pair(Item.create(f"q{row}", noise(row) if row < 8 else None), Item.create(f"p{row}"), "ab"[row // 8], row)
             for row in range(16)]  # fmt: skip
    share, collate = (
        RankBatchSampler(ClusterBatchSampler([], 16, 4, 0, 1, [pair.subset for pair in pairs], mixed=False)),
        collating(tiny, None),
    )
    exact = max(
        bytes_of(tensors_of(collate([pairs[row] for row in part]))) for batch in share.plan.epoch(0) for part in batch
    )
    assert exact == pytest.approx(largest_batch(pairs, share, collate), rel=0.1)


# --- where there is no room -----------------------------------------------------------------------------------------


class Killed(torch.utils.data.Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        os.kill(os.getpid(), signal.SIGBUS)


def test_a_worker_that_the_system_ends_is_explained():
    with pytest.raises(UserError, match=r"DataLoader worker \(pid.*batch.workers=0.*docker"), explained():
        list(make_loader(Killed(), Prefetch(1), batch_size=None))
    raw = RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that ...")
    assert "docker run --shm-size" in explain(raw, "train", [])
    assert explain(RuntimeError("mat1 and mat2 shapes cannot be multiplied"), "train", []) is None
    with pytest.raises(RuntimeError, match="mat1"), explained():
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")


class NoRoom(torch.utils.data.Dataset):
    """Has one batch, in a worker that gets no shared memory."""

    def __len__(self):
        return 1

    def __getitem__(self, index):
        def refuse(tensor):
            raise RuntimeError("unable to write to file </torch_7_8>: No space left on device (28)")

        torch.Tensor.share_memory_ = refuse
        try:
            return to_shared_memory(TrueSizes()([(Item.create("a"), "query")]))
        except UserError as error:
            return str(error)


def test_full_shared_memory_is_an_error_and_no_hang():
    (said,) = make_loader(NoRoom(), Prefetch(1), batch_size=None)
    assert "No space left on device" in said
    assert "batch.prefetch" in said


def test_an_engine_takes_as_many_workers_as_there_is_room_for(tiny, monkeypatch, caplog):
    """Nobody chose them; those that were chosen are an error."""
    items = [Item.create(str(row), noise(row)) for row in range(65)]
    chosen = []
    monkeypatch.setattr(
        parts,
        "make_loader",
        lambda dataset, ahead, **_: chosen.append(ahead) or map(dataset.__getitem__, range(len(dataset))),
    )
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(parts.os, "cpu_count", lambda: 4)
    part = bytes_of(tensors_of(tiny.prepare([(items[0], "query")], ChunkLimit(512)))) * 32
    for room, processes in ((10 * part, 3), (3.5 * part, 1), (part, 0)):
        monkeypatch.setattr(parts, "room", lambda room=room: ("/dev/shm", int(room)))
        monkeypatch.setattr(workers, "room", lambda room=room: ("/dev/shm", int(room)))
        caplog.clear()
        Engine(shown=False).encode(tiny, items, "query")
        assert chosen[-1].processes == processes
        assert ("too little room" in caplog.text) == (processes < 3)
    with pytest.raises(UserError, match=r"engine.workers=0, or enlarge it"):
        Engine(workers=2, shown=False).encode(tiny, items, "query")


@pytest.mark.parametrize(("free", "state"), [(64 * 2**20, "warning"), (4 * GIB, "ok")])
def test_doctor_looks_at_shared_memory(monkeypatch, tmp_path, free, state):
    module = "gen2embed.cli.checks.environment"
    monkeypatch.setattr(f"{module}.SHARED", tmp_path)
    monkeypatch.setattr(f"{module}.shutil.disk_usage", lambda _: SimpleNamespace(free=free, total=8 * GIB))
    (finding,) = check_shared_memory()
    assert finding.state == state
    assert ("--shm-size" in finding.text) == (state == "warning")
    monkeypatch.setattr(f"{module}.SHARED", tmp_path / "none")
    assert list(check_shared_memory()) == []
