"""Compare runs that differ in some settings: mean and interval over seeds.

    python -m gen2embed compare outputs/false_negatives
    python -m gen2embed compare outputs/false_negatives --by mining

It reads the results.json of every run below a folder. Runs that differ in nothing but the seed are one arm, and an arm
is a row: the mean over seeds with its 95 % interval (Student's t), overall and by group. With --by, runs that agree in
these settings are one arm, and a seed's score is the mean over all others. In the folder it writes the table as
`scores.png`, the scores of every run as `scores.csv`, and what the runs logged in training as `curves.png`.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="a folder with runs below it")
    parser.add_argument("--by", nargs="+", default=[], metavar="SETTING", help="that differ between arms; default all")
