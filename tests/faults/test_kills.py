"""Killed anywhere, a command that is given again ends with the bits of one that nobody killed."""

import pytest

pytestmark = pytest.mark.xdist_group("faults")  # one worker has the runs that nobody killed


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["mine", "train", "train on two", "eval"])
def test_fifty_kills(make_harness, stage):
    harness = make_harness(stage)
    assert not harness.run(50)
    assert harness.met["a moment"] < 40


PLACES = {
    "train on two": [
        ("write step=*.ckpt", 20, False),
        ("write README.md", 1, False),
    ],
    "mine": [("write config.yaml", 1, False), ("write *.ids.npy", 2, False)],
    "eval": [("write scores.png", 1, False)],
}


@pytest.mark.parametrize("stage", PLACES)
def test_five_kills(harnesses, stage):
    """In a checkpoint, and beside the adapter; in the configuration and a shard; in a chart."""
    harness = harnesses(stage)
    harness.chain(PLACES[stage])
    assert not harness.found
    assert list(harness.met) == [kind for kind, *_ in PLACES[stage]]
