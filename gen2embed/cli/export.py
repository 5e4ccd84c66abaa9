"""Export a model for other libraries: a merged checkpoint, an adapter, sentence-transformers, vLLM.

    python -m gen2embed export sentence-transformers --model outputs/run/adapter --output exported

Every export is checked: the vectors that its own library computes are the model's.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from gen2embed.cli.arguments import add_model_arguments
from gen2embed.utils.choices import EXPORT_DTYPES, EXPORT_KINDS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", metavar="KIND", choices=EXPORT_KINDS, help=f"one of {', '.join(EXPORT_KINDS)}")
    parser.add_argument("--output", required=True, type=Path, metavar="FOLDER", help="a new or empty folder")
    parser.add_argument(
        "--run", type=Path, metavar="FOLDER", help="the folder of the run that scored the model, for the card"
    )
    parser.add_argument("--dtype", choices=EXPORT_DTYPES, default="float32", help="of the weights (default float32)")
    parser.add_argument("--device", default="auto", help="where the check runs (default auto)")
    parser.add_argument("--license", default="unknown", help="of the model, such as apache-2.0 (default unknown)")
    parser.add_argument("--base-name", help="the base's hub id, if the base is loaded from a copy")
    add_model_arguments(parser)
