"""Killed anywhere, a command that is given again ends with the bits of one that nobody killed."""

import pytest

from faults.harness import STAGES, Harness

pytestmark = pytest.mark.xdist_group("forks")  # one worker has the process that runs are forked from


@pytest.fixture(scope="session")
def drawn(tmp_path_factory):
    """The folder of a world that the first run draws."""
    return tmp_path_factory.mktemp("drawn") / "world"


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_fifty_kills(forked, tmp_path, drawn, stage):
    harness = Harness(forked, tmp_path, drawn, stage)
    assert not harness.run(50)
    assert harness.kills == 50
    assert harness.met["a moment"] < 40


PLACES = {
    "train on two": [("write step=*.ckpt", 20, False), ("write README.md", 1, False)],  # a checkpoint; beside the adapter
    "mine": [("write config.yaml", 1, False), ("write *.ids.npy", 2, False)],  # a shard
    "eval": [("write scores.png", 1, False)],
}


@pytest.mark.parametrize("stage", PLACES)
def test_five_kills(forked, tmp_path, drawn, stage):
    harness = Harness(forked, tmp_path, drawn, stage)
    harness.chain(PLACES[stage])
    assert not harness.found
    assert list(harness.met) == [kind for kind, *_ in PLACES[stage]]
