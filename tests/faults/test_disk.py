"""A full disk, a folder that may not be written, data that vanish: one message, and what was there stays."""

import re
import subprocess
from contextlib import contextmanager

import pytest

from faults.harness import half_files, unfinished
from gen2embed.training.checkpoint import saved_checkpoints, step_of

pytestmark = pytest.mark.xdist_group("faults")  # one worker has the runs that nobody killed

FULL = r"error: \S*{}: No space left on device; free space there, or raise the limit, and give the same command again"


def check_refusal(harness, codes, message):
    """The command ended with code 1 and this message; what is there is whole."""
    said = " ".join(harness.said().split())
    assert codes == [1], said
    assert re.search(message, said), said
    assert "Traceback" not in said, said
    assert not list(half_files(harness.now))
    assert not unfinished(harness.now)


@pytest.mark.parametrize(
    ("stage", "kind", "nth", "file"),
    [
        ("train", "write step=*.ckpt", 40, "step=000004.ckpt"),
        ("mine", "write *.npy", 2, r"\w+.npy"),
        ("eval", "write report.html", 1, "report.html"),
    ],
)
def test_a_full_disk(harnesses, stage, kind, nth, file):
    """From a write on, which is done by half; afterwards there is space, and the same command goes on."""
    harness = harnesses(stage)
    harness.begin("seed=0")
    codes = harness.start("seed=0", watch={"0": harness.watched(kind=kind, nth=nth, act="full")})
    check_refusal(harness, codes, FULL.format(file))
    harness.go_on("seed=0")
    harness.compare("seed=0")
    assert not harness.found


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["train", "mine", "eval"])
def test_a_disk_that_is_really_full(harnesses, stage):
    """And grows until it suffices, while the command goes on from what is there."""
    harness = harnesses(stage)
    harness.begin("seed=0")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40k", "none", harness.now], check=False).returncode:
        pytest.skip("mounting is not permitted")
    try:
        size, refusals = 40, 0  # KiB
        while (codes := harness.start("seed=0")) != [0]:
            check_refusal(harness, codes, FULL.format(""))
            size, refusals = size * 3 // 2, refusals + 1
            subprocess.run(["mount", "-o", f"remount,size={size}k", harness.now], check=True)
        assert refusals > 2
        harness.compare("seed=0")
        assert not harness.found
    finally:
        subprocess.run(["umount", harness.now], check=True)


DENIED = r"error: \S*{}: Permission denied; allow it, or name another folder, and give the same command again"
GONE = r"error: \w+ row \d+.*: the picture {}\S+ does not exist; its folder is away, too: bring it back"


@contextmanager
def read_only(folder):
    folder.chmod(0o555)
    yield
    folder.chmod(0o755)


@pytest.mark.parametrize(
    ("stage", "folder", "file"),
    [
        ("train", "run/checkpoints", "step=000006.ckpt"),
        pytest.param("mine", "outputs", "embeddings", marks=pytest.mark.slow),
        pytest.param("eval", "", "run", marks=pytest.mark.slow),
    ],
)
def test_a_read_only_folder(harnesses, stage, folder, file):
    """Of checkpoints, after some were written; of a store; of the run itself."""
    harness = harnesses(stage)
    harness.begin("seed=0")
    if stage == "train":
        harness.start("seed=0", kill=[5, 0])
    (where := harness.now / folder).mkdir(exist_ok=True)
    with read_only(where):
        check_refusal(harness, harness.start("seed=0", permissions=True), DENIED.format(file))
        assert stage != "train" or [step_of(path) for path in saved_checkpoints(where)] == [2, 4]
    harness.go_on("seed=0")
    harness.compare("seed=0")
    assert not harness.found


@pytest.mark.parametrize(("workers", "step"), [pytest.param(0, 4, marks=pytest.mark.slow), (2, 1)])
def test_pictures_that_vanish_during_training(harnesses, workers, step):
    """As those of a disk that is unmounted. Workers have prepared the next four batches by then."""
    harness = harnesses("train")
    harness.begin(more := f"batch.workers={workers}")
    (pictures,) = harness.world.glob("train-*rows6*/images")
    codes = harness.start(more, vanish=[step, 0, str(pictures)])
    pictures.with_name("images.away").rename(pictures)
    check_refusal(harness, codes, GONE.format(pictures))
    harness.go_on(more)
    assert re.search(r"continuing from step [46] of 8", " ".join(harness.said().split()))
    harness.compare(more)
    assert not harness.found


@pytest.mark.parametrize("what", ["rows", "pictures"])
def test_data_that_vanished_before(harnesses, what):
    """Results of before stay."""
    harness = harnesses("eval")
    harness.begin("seed=0")
    harness.go_on("seed=0")
    (data,) = harness.world.glob("eval-*queries4")
    away = data / "shape/test-00000-of-00001.parquet" if what == "rows" else data / "images"
    away.rename(data / "away")
    codes = harness.start("seed=0")
    (data / "away").rename(away)
    check_refusal(harness, codes, "error: .*shape")
    harness.compare("seed=0")
    assert not harness.found
