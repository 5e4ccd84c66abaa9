"""The last line of `make test-faults`."""

from faults.harness import TALLY


def pytest_unconfigure():
    if TALLY["kills"]:
        print("kills {kills}, restarts {restarts}, differences {differences}".format_map(TALLY))
