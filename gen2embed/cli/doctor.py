"""Check libraries, device, disk, weights and data, before hours of work.

    python -m gen2embed doctor
    python -m gen2embed doctor photos --model Qwen/Qwen2-VL-2B-Instruct
    python -m gen2embed doctor data=pairs data.path=my/pairs.csv --model outputs/run/adapter

A line a finding: ok, warning or problem, with the remedy; the exit code is 1 if there is a problem. DATA is what
`embed` takes, or settings of the groups data and benchmark, as of train.py. Ctrl-C ends it with what was found so far.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from gen2embed.cli.model import add_model_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", nargs="*", metavar="DATA")
    parser.add_argument("--output", type=Path, default=Path("outputs"), metavar="FOLDER", help="default outputs")
    help_ = "for all measurements of the model; what is known then is said (default 60)"
    parser.add_argument("--seconds", type=float, default=60.0, metavar="S", help=help_)
    add_model_arguments(parser, required=False)


def run(args: argparse.Namespace) -> int:
    from gen2embed.cli.checks import doctor as command

    return command.run(args)
