"""Whether rows can be read, and the pictures that they name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from gen2embed.cli.checks.findings import Finding
from gen2embed.cli.commands.inputs import read_items
from gen2embed.config.schema import make
from gen2embed.data import pictures as images
from gen2embed.data.benchmark import list_benchmarks
from gen2embed.data.pairs import PairSource
from gen2embed.types import ImagePart, Item
from gen2embed.utils.errors import UserError

GROUPS = ("data", "benchmark")
DECODED = 64  # pictures, spread over all of them, that are opened whole


def check_items(path: Path, found: list[Item]) -> Iterator[Finding]:
    """A file or a folder as `embed` takes it; `found` gets its items."""
    given = read_items(path)
    yield from _counted(str(path), given.items, found)
    if given.skipped:
        yield Finding("warning" if given.concerning else "ok", given.skipped)


def check_settings(overrides: Sequence[str], found: list[Item]) -> Iterator[Finding]:
    """The rows and tasks that settings name, as train.py would read them; `found` gets their items."""
    groups = {override.partition("=")[0].partition(".")[0] for override in overrides}
    if unknown := sorted(groups - set(GROUPS)):
        raise UserError(f"{', '.join(unknown)} is not checked; settings are of {' and '.join(GROUPS)}, as of train.py")
    made = make("train", sorted(groups), overrides)
    if "data" in groups:
        source: PairSource = made["data"]
        pairs = source.pairs()
        images.check((picture for pair in pairs for picture in pair.pictures), source.roots)
        items = [item for pair in pairs for item in (pair.query, pair.positive, *pair.negatives)]
        yield from _counted(f"data, {len(pairs):,} pairs", items, found)
    if "benchmark" in groups:
        for benchmark in list_benchmarks(made["benchmark"]):
            images.check(benchmark.pictures, benchmark.roots)
            items = [item for task in benchmark.tasks for item in task.items()]
            yield from _counted(f"benchmark {benchmark.name}, {len(benchmark.tasks)} tasks", items, found)


def _counted(what: str, items: Sequence[Item], found: list[Item]) -> Iterator[Finding]:
    """How many there are, and whether some of their pictures open; only their headers were read so far."""
    distinct: dict[str, Item] = {item.key: item for item in items}
    pictures: dict[str, ImagePart] = {its.key: its for item in distinct.values() for its in item.pictures}
    every = list(pictures.values())
    sample = every[:: max(1, -(-len(every) // DECODED))]
    for picture in sample:
        images.load(picture)
    found += distinct.values()
    opened = f", of which {len(sample)} were opened whole" if sample else ""
    yield Finding("ok", f"{what}: {len(distinct):,} distinct items, {len(every):,} distinct pictures{opened}")
