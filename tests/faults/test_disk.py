"""A full disk, a folder that may not be written, data that vanish: one message, and what was there stays."""

import re
import subprocess

import pytest

from faults.harness import half_files, unfinished

pytestmark = pytest.mark.xdist_group("forks")  # one worker has the process that runs are forked from

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
