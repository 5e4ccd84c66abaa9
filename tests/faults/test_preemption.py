"""SIGTERM ends training after its step, and mining and evaluation at once; the same command goes on."""

import signal
from unittest.mock import Mock

import pytest
from omegaconf.errors import ConfigKeyError

from gen2embed.training.checkpoint import saved_checkpoints, step_of
from gen2embed.utils.preemption import EXIT_CODE, Preempted, listening

pytestmark = pytest.mark.xdist_group("faults")  # one worker has the runs that nobody killed

SAID = f"ended by SIGTERM, with exit code {EXIT_CODE}; the same command goes on from here"


SLURM = {"SLURM_JOB_ID": "1", "SLURM_JOB_NAME": "train", "SLURM_NTASKS": "1", "SLURM_NTASKS_PER_NODE": "1",
         "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}  # fmt: skip


def stop_and_go_on(harness, more, rank, **told):
    """Signal a rank in the middle of the fifth step, after which no checkpoint is due."""
    harness.begin(more)
    codes = harness.start(more, stop=[4, rank], **told)
    assert codes == [EXIT_CODE] + [0] * (len(codes) - 1), harness.said()
    said = " ".join(harness.said().split())
    assert "SIGTERM: step 5 of 8 is in" in said
    assert said.count(SAID) == 1
    assert "Traceback" not in said
    assert [step_of(path) for path in saved_checkpoints(harness.now / "run/checkpoints")] == [4, 5]
    harness.go_on(more)
    assert "continuing from step 5 of 8" in " ".join(harness.said().split())
    harness.compare(more)
    assert not harness.found


def test_training_ends_after_its_step(harnesses):
    """In a job of Slurm, which signals the loaders' workers, too: they serve the step to its end."""
    stop_and_go_on(harnesses("train"), "batch.workers=2", rank=0, environment=SLURM)


def test_ranks_end_after_the_same_step(harnesses):
    """Where one of them alone is signalled."""
    stop_and_go_on(harnesses("train on two"), "batch.workers=0", rank=1)


@pytest.mark.slow
def test_ranks_that_lightning_starts_end_after_the_same_step(harnesses):
    stop_and_go_on(harnesses("train on two, launched"), "seed=0", rank=0)


@pytest.mark.parametrize("stage", ["mine", "eval"])
def test_other_stages_end_in_the_middle_of_a_shard(make_harness, stage):
    """And leave nothing of it."""
    harness = make_harness(stage, by=signal.SIGTERM)
    harness.chain([("write *.npy", 2, False)])
    assert not harness.found
    assert list(harness.met) == ["write *.npy"]


def test_a_handler_that_is_there_stays():
    """As submitit's, which has the job queued again."""
    plain = signal.signal(signal.SIGTERM, theirs := Mock())
    try:
        with listening():
            signal.raise_signal(signal.SIGTERM)
        theirs.assert_called_once()
    finally:
        signal.signal(signal.SIGTERM, plain)
    with pytest.raises(Preempted), listening():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == plain


def test_an_error_in_its_place_is_none():
    """As OmegaConf raises, where it cannot give back a flag that it has not set yet."""

    def compose():
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            raise ConfigKeyError("no flag")

    with pytest.raises(Preempted), listening():
        compose()
    with pytest.raises(ConfigKeyError), listening():
        raise ConfigKeyError("no flag")  # which nobody signalled


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["mine", "train", "train on two", "eval"])
def test_twenty_stops(make_harness, stage):
    harness = make_harness(stage, by=signal.SIGTERM)
    assert not harness.run(20)
    assert harness.longest < 20
