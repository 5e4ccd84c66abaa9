"""Embed texts and pictures from a file or a folder.

    python -m gen2embed embed photos --model Qwen/Qwen2-VL-2B-Instruct --role candidate --output photos.parquet
    python -m gen2embed embed questions.txt --model outputs/run/adapter --output questions.npy --precision int8

INPUT is a text file (a line an input), a .parquet, .jsonl or .csv file with columns text and image (one is enough), a
picture, or a folder of pictures, at any depth; files are known by their content where their names do not say it, and
those that are skipped are counted. A .npy output holds the vectors, a row an input; a .parquet one also its columns
text and image, and in the file's metadata what made them. Embeddings are kept in a store by what decides them, so that
a run that was stopped goes on when the same command is given again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from gen2embed.cli.model import add_model_arguments, add_store_argument
from gen2embed.utils.choices import PRECISIONS, ROLES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("input", type=Path, metavar="INPUT")
    parser.add_argument("--output", required=True, metavar="FILE", help="a .npy or .parquet file")
    parser.add_argument("--role", choices=ROLES, default="query", help="default query")
    parser.add_argument("--image-dir", type=Path, metavar="FOLDER", help="of a file's pictures; default beside it")
    parser.add_argument("--truncate-dim", type=int, metavar="D", help="keep the first D elements")
    parser.add_argument("--precision", choices=PRECISIONS, default="float32", help="default float32")
    add_store_argument(parser)
    add_model_arguments(parser)


def run(args: argparse.Namespace) -> None:
    from gen2embed.cli.commands import embed

    embed.run(args)
