"""Check libraries, device, disk, weights and data, before hours of work.

    python -m gen2embed doctor
    python -m gen2embed doctor photos --model Qwen/Qwen2-VL-2B-Instruct
    python -m gen2embed doctor data=pairs data.path=my/pairs.csv --model outputs/run/adapter

It prints a line for each finding: ok, warning or problem, with the remedy. The exit code is 1 if there is a problem.
DATA is a file or folder as for `embed`, or settings of the groups data and benchmark as for train.py. Ctrl-C ends it
after the findings so far.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from gen2embed.cli.arguments import add_model_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", nargs="*", metavar="DATA")
    parser.add_argument(
        "--output", type=Path, default=Path("outputs"), metavar="FOLDER", help="of results (default outputs)"
    )
    help_ = "limit of all measurements of the model together (default 60)"
    parser.add_argument("--seconds", type=float, default=60.0, metavar="S", help=help_)
    add_model_arguments(parser, required=False)
