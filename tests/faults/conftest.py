"""One harness a stage for all tests, and the last line of `make test-faults`."""

import functools

import pytest

from faults.harness import TALLY, Harness


@pytest.fixture(scope="session")
def make_harness(forked, tmp_path_factory):
    """A stage's harness, in a new folder; the first run of any draws the world."""
    world = tmp_path_factory.mktemp("drawn") / "world"

    def make(stage, **options):
        return Harness(forked, tmp_path_factory.mktemp("stage"), world, stage, **options)

    return make


@pytest.fixture(scope="session")
def harnesses(make_harness):
    """One of each stage, for chains whose places are given."""
    return functools.cache(make_harness)


def pytest_unconfigure():
    if TALLY["kills"]:
        print("kills {kills}, restarts {restarts}, differences {differences}".format_map(TALLY))
