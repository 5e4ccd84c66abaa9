"""Write reports again: the work of `python -m gen2embed report`."""

from __future__ import annotations

import argparse
from pathlib import Path

from gen2embed.cli.report import QUERIES
from gen2embed.reports.evaluation.page import write_report as write_evaluation
from gen2embed.reports.html import PAGE, check_page
from gen2embed.reports.mining.page import CHART
from gen2embed.reports.mining.page import write_report as write_mining
from gen2embed.reports.mining.rows import read_rows
from gen2embed.utils.errors import UserError


def run(args: argparse.Namespace) -> None:
    """Write the report of runs, of mining or of evaluations.

    Raises:
        UserError: For folders that are not of a run, for a mining run beside others, for several evaluations without a
            place for their page, and as `write_report` of either kind.
    """
    if mined := [folder for folder in args.folders if _is_mined(folder)]:
        if len(args.folders) > 1 or args.output is not None or args.queries is not None:
            raise UserError(
                f"{mined[0]} is a run of mine.py, whose report lies in its folder; name it alone, without --output and "
                "--queries"
            )
        _report_mining(mined[0], args.seed)
    else:
        _report_evaluations(args)


def _is_mined(folder: Path) -> bool:
    """Return whether a run mined and did not evaluate: that of train.py has clusters and results."""
    return (folder / "clusters.parquet").is_file() and not (folder / "results.json").is_file()


def _report_mining(folder: Path, seed: int) -> None:
    page = check_page(folder / PAGE)
    pairs, roots = read_rows(folder)
    write_mining(folder, pairs, roots, seed)
    print(f"{page} and {folder / CHART} written")


def _report_evaluations(args: argparse.Namespace) -> None:
    if args.output is None and len(args.folders) > 1:
        raise UserError("several runs have no folder in common for their page; set --output FILE.html")
    output = check_page(args.folders[0] / PAGE if args.output is None else args.output)
    write_evaluation(args.folders, output, QUERIES if args.queries is None else args.queries, args.seed)
    print(f"{output} written")
