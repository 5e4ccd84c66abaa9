"""Make an evaluation's report again, or that of several runs side by side; no model is loaded.

    python -m gen2embed report outputs/zero_shot
    python -m gen2embed report outputs/zero_shot outputs/fine_tuned --output compared.html

Reads results.json and predictions.parquet of every run and, for the queries that are shown, the benchmark of the first.
The other runs are compared with the first, query by query.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folders", metavar="RUN", type=Path, nargs="+", help="what eval.py or train.py left")
    parser.add_argument("--output", help="the page (default: report.html of a single run's folder)")
    parser.add_argument("--queries", type=int, default=20, help="shown of each task, 0 for none (default 20)")
    parser.add_argument("--seed", type=int, default=0, help="of their choice, and of the bootstrap (default 0)")


def run(args: argparse.Namespace) -> None:
    from gen2embed.cli.commands import report

    report.run(args)
