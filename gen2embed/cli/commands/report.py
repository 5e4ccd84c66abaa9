"""Make an evaluation's report again: the work of `python -m gen2embed report`."""

from __future__ import annotations

import argparse

from gen2embed.reports.evaluation.page import write_report
from gen2embed.reports.html import PAGE, check_page
from gen2embed.utils.errors import UserError


def run(args: argparse.Namespace) -> None:
    """Raises `UserError` as `write_report` does, and for several runs without a place for their page."""
    if args.output is None and len(args.folders) > 1:
        raise UserError("several runs have no folder in common for their page; say --output FILE.html")
    output = check_page(args.folders[0] / PAGE if args.output is None else args.output)
    write_report(args.folders, output, args.queries, args.seed)
    print(f"{output} written")
