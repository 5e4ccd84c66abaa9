"""Search a folder of pictures, or a file of texts, by a text or a picture.

    python -m gen2embed search "a dog on a beach" --in photos --model Qwen/Qwen2-VL-2B-Instruct

QUERY is a picture if it ends like a picture's name, else a text; with --text it is always a text. --in takes the inputs
of `embed`. They are embedded once and kept in a store, so that a second search is fast. The score is the cosine.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from gen2embed.cli.arguments import add_model_arguments, add_store_argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("query", metavar="QUERY")
    parser.add_argument("--text", action="store_true", help="QUERY is a text, even if it looks like a file")
    parser.add_argument("--in", type=Path, required=True, dest="where", metavar="PATH", help="a folder or a file")
    parser.add_argument("--image-dir", type=Path, metavar="FOLDER", help="of a file's pictures (default its folder)")
    parser.add_argument("--top", type=int, default=10, metavar="K", help="how many to show (default 10)")
    parser.add_argument("--approximate", action="store_true", help="by a faiss index, for millions")
    add_store_argument(parser)
    add_model_arguments(parser)
