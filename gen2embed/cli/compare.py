"""Compare runs that differ in some settings: mean and interval over seeds.

    python -m gen2embed compare outputs/false_negatives
    python -m gen2embed compare outputs/false_negatives --by mining

Reads the results.json of every run below a folder, takes those that differ in nothing but the seed as one arm, and
prints a row an arm: the mean over seeds with its 95 % interval (Student's t), overall and by group. With --by, an arm
is what agrees in these settings, and a seed's score is the mean over all others. Leaves the same as `scores.png` in the
folder, every run's scores as `scores.csv`, and as `curves.png` what the runs logged while they trained.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path)
    parser.add_argument("--by", nargs="+", default=[], metavar="SETTING")


def run(args: argparse.Namespace) -> None:
    from gen2embed.cli.commands import compare

    compare.run(args)
