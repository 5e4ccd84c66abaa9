"""Write the report of a run again, or that of several evaluations side by side; no model is loaded.

    python -m gen2embed report outputs/zero_shot
    python -m gen2embed report outputs/zero_shot outputs/fine_tuned --output compared.html
    python -m gen2embed report outputs/mined

Of an evaluation it reads results.json, predictions.parquet and, for the queries that are shown, the benchmark of the
first run. The other runs are compared with the first, query by query. Of a run of mine.py it reads clusters.parquet,
skipped.parquet and the rows that config.yaml names, and writes report.html and mining.png.
"""

from __future__ import annotations

import argparse
from pathlib import Path

QUERIES = 20  # shown of each task by default


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folders", metavar="RUN", type=Path, nargs="+", help="the folder of eval.py, train.py or mine.py"
    )
    parser.add_argument("--output", help="the page (default: report.html of a single run's folder)")
    parser.add_argument("--queries", type=int, help=f"shown of each task, 0 for none (default {QUERIES})")
    help_ = "of the choice of queries or clusters, and of the bootstrap (default 0)"
    parser.add_argument("--seed", type=int, default=0, help=help_)
