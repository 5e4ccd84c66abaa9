"""Make an evaluation's report again, or that of several runs side by side; no model is loaded.

    python -m gen2embed report outputs/zero_shot
    python -m gen2embed report outputs/zero_shot outputs/fine_tuned --output compared.html

Reads results.json and predictions.parquet of every run and, for the queries that are shown, the benchmark of the first.
The other runs are compared with the first, query by query.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from gen2embed.eval_report.page import write_report
from gen2embed.types import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folders", metavar="RUN", type=Path, nargs="+", help="what eval.py or train.py left")
    parser.add_argument("--output", type=Path, help="the page (default: report.html of a single run's folder)")
    parser.add_argument("--queries", type=int, default=20, help="shown of each task, 0 for none (default 20)")
    parser.add_argument("--seed", type=int, default=0, help="of their choice, and of the bootstrap (default 0)")


def run(args: argparse.Namespace) -> None:
    """Raises `UserError` as `write_report` does, and for several runs without a place for their page."""
    if args.output is None and len(args.folders) > 1:
        raise UserError("several runs have no folder in common for their page; say --output FILE.html")
    output = args.output or args.folders[0] / "report.html"
    write_report(args.folders, output, args.queries, args.seed)
    print(f"{output} written")
