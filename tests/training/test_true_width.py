"""What the start of a run says of memory, at the width of the paper's models, against what a step holds."""

import json
from pathlib import Path

import pytest


@pytest.fixture(scope="module", params=["2b", pytest.param("7b", marks=pytest.mark.slow)])
def measured(request, forked, tmp_path_factory):
    """Of a step in a process of its own, in MiB; see `true_width.py`."""
    folder = tmp_path_factory.mktemp("width")
    log = folder / "said"
    assert forked(log, request.param, function=["true_width", "main"], folder=folder) == [0], Path(
        f"{log}.0"
    ).read_text()
    return json.loads(Path(f"{log}.0").read_text().splitlines()[-1])


def test_the_prediction_is_what_a_step_holds(measured):
    assert measured["held"] > 300
    assert measured["held"] == pytest.approx(measured["predicted"], rel=0.15)


def test_a_step_that_computes_norms_in_every_pass_holds_more(measured):
    """Without `cached_norms` the prediction is wrong: peft's identity matrices are as large as a layer is wide."""
    assert measured["plain"] > 1.15 * measured["predicted"]


def test_measuring_holds_no_more_than_the_step(measured):
    """Code that is used for the first time, and the chunk's own pixels, come on top."""
    assert measured["measuring"] < 1.15 * measured["held"]


def test_what_is_trained_under_autocast_is_float32(measured):
    assert measured["types"] == ["torch.float32"]
