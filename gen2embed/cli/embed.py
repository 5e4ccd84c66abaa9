"""Embed texts and pictures from a file or a folder.

    python -m gen2embed embed photos --model Qwen/Qwen2-VL-2B-Instruct --role candidate --output photos.parquet
    python -m gen2embed embed questions.txt --model outputs/run/adapter --output questions.npy --precision int8

INPUT is a text file (a line an input), a .parquet, .jsonl or .csv file with columns text and image (one is enough), a
picture, or a folder of pictures at any depth. Files without a picture's name are recognised by their content, and those
that are skipped are counted. A .npy output holds the vectors, a row an input. A .parquet output also holds the columns
text and image, and in its metadata the model and the settings. Embeddings are kept in a store, so that the same command
continues where it was stopped.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from gen2embed.cli.arguments import add_model_arguments, add_store_argument
from gen2embed.utils.choices import PRECISIONS, ROLES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("input", type=Path, metavar="INPUT")
    parser.add_argument("--output", required=True, metavar="FILE", help="a .npy or .parquet file")
    parser.add_argument("--role", choices=ROLES, default="query", help="of the inputs (default query)")
    parser.add_argument("--image-dir", type=Path, metavar="FOLDER", help="of a file's pictures (default its folder)")
    parser.add_argument("--truncate-dim", type=int, metavar="D", help="keep the first D elements")
    parser.add_argument("--precision", choices=PRECISIONS, default="float32", help="of an element (default float32)")
    add_store_argument(parser)
    add_model_arguments(parser)
