"""Check that rows can be read, and the pictures that they name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from gen2embed.cli.checks.findings import Finding
from gen2embed.cli.commands.inputs import read_inputs
from gen2embed.config.schema import make
from gen2embed.data.benchmark import list_benchmarks
from gen2embed.data.pairs import PairSource
from gen2embed.data.pictures import check_pictures, load_picture
from gen2embed.types import ImagePart, Item
from gen2embed.utils.errors import UserError

GROUPS = ("data", "benchmark")
DECODED = 64  # pictures, spread over all of them, that are decoded


def check_items(path: Path, items: list[Item]) -> Iterator[Finding]:
    """Check a file or a folder as for `embed`, and add its items to `items`."""
    inputs = read_inputs(path)
    yield from _check_pictures(str(path), inputs.items, items)
    if inputs.skipped:
        yield Finding("warning" if inputs.concerning else "ok", inputs.skipped)


def check_settings(overrides: Sequence[str], items: list[Item]) -> Iterator[Finding]:
    """Check the rows and tasks that settings name, as train.py would read them, and add their items to `items`."""
    groups = {override.partition("=")[0].partition(".")[0] for override in overrides}
    if unknown := sorted(groups - set(GROUPS)):
        raise UserError(
            f"{', '.join(unknown)} is not checked; give settings of {' and '.join(GROUPS)}, as for train.py"
        )
    parts = make("train", sorted(groups), overrides)
    if "data" in groups:
        source: PairSource = parts["data"]
        pairs = source.pairs()
        check_pictures((picture for pair in pairs for picture in pair.pictures), source.roots)
        sides = [item for pair in pairs for item in (pair.query, pair.positive, *pair.negatives)]
        yield from _check_pictures(f"data, {len(pairs):,} pairs", sides, items)
    if "benchmark" in groups:
        for benchmark in list_benchmarks(parts["benchmark"]):
            check_pictures(benchmark.pictures, benchmark.roots)
            sides = [item for task in benchmark.tasks for item in task.items()]
            yield from _check_pictures(f"benchmark {benchmark.name}, {len(benchmark.tasks)} tasks", sides, items)


def _check_pictures(subject: str, sides: Sequence[Item], items: list[Item]) -> Iterator[Finding]:
    """Count distinct items, and decode some of their pictures, of which only headers were read so far."""
    distinct: dict[str, Item] = {item.key: item for item in sides}
    pictures: dict[str, ImagePart] = {picture.key: picture for item in distinct.values() for picture in item.pictures}
    sample = [*pictures.values()][:: max(1, -(-len(pictures) // DECODED))]
    for picture in sample:
        load_picture(picture)
    items += distinct.values()
    opened = f", of which {len(sample)} were opened whole" if sample else ""
    yield Finding("ok", f"{subject}: {len(distinct):,} distinct items, {len(pictures):,} distinct pictures{opened}")
