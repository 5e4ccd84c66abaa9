"""Run all checks: the work of `python -m gen2embed doctor`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.text import Text

from gen2embed.cli.checks.budget import Budget
from gen2embed.cli.checks.data import check_items, check_settings
from gen2embed.cli.checks.environment import check_device, check_libraries, check_output_folder, check_shared_memory
from gen2embed.cli.checks.findings import Finding, announce, guarded
from gen2embed.cli.checks.threads import check_threads
from gen2embed.cli.checks.weights import check_files, check_loaded, check_speed
from gen2embed.cli.commands.inputs import load_model
from gen2embed.types import Item
from gen2embed.utils.errors import UserError
from gen2embed.utils.redaction import visible

STYLES = {"ok": "green", "warning": "yellow", "problem": "bold red"}
INTERRUPTED = 130  # as a shell reports a process that Ctrl-C ended


def run(args: argparse.Namespace) -> int:
    """Print all findings; return the exit code."""
    counts = dict.fromkeys(STYLES, 0)
    console = Console(highlight=False)
    stopped = ""
    try:
        for finding in findings(args):
            counts[finding.state] += 1
            console.print(
                Text.assemble((f"{finding.state:8}", STYLES[finding.state]), visible(finding.text)), soft_wrap=True
            )
    except KeyboardInterrupt:
        stopped = "; stopped by Ctrl-C, and the rest was not checked"
    console.print(f"{counts['problem']} problems, {counts['warning']} warnings{stopped}")
    return INTERRUPTED if stopped else int(counts["problem"] > 0)


def findings(args: argparse.Namespace) -> Iterator[Finding]:
    """Yield the findings of all checks. A model whose files are broken is not loaded.

    Raises:
        UserError: For a number of seconds that is not positive.
    """
    if not args.seconds > 0:
        raise UserError(f"--seconds must be above 0; got {args.seconds:g}")
    yield from guarded("libraries", check_libraries())
    yield from guarded("device", check_device())
    yield from guarded("threads", check_threads())
    yield from guarded("shared memory", check_shared_memory())
    yield from guarded("output folder", check_output_folder(args.output))
    items: list[Item] = []
    if settings := [name for name in args.data if "=" in name and not Path(name).exists()]:
        announce(f"reading the rows and the headers of pictures of {' '.join(settings)}")
        yield from guarded("settings", check_settings(settings, items))
    for path in (name for name in args.data if name not in settings):
        announce(f"reading {path}, and the headers of its pictures")
        yield from guarded(f"input {path}", check_items(Path(path), items))
    if args.model is None:
        return
    announce(f"looking at the files of {args.model}")
    files = list(guarded("weights", check_files(args.model, args.adapter)))
    yield from files
    if all(finding.state == "ok" for finding in files):
        yield from guarded("model", _check_model(args, items))


def _check_model(args: argparse.Namespace, items: list[Item]) -> Iterator[Finding]:
    announce("loading the model")
    embedder = load_model(args)
    budget = Budget(args.seconds)
    yield from check_loaded(embedder, budget)
    yield from check_speed(embedder, items, budget)
