"""Search a folder of pictures, or a file of texts, by a text or a picture.

    python -m gen2embed search "a dog on a beach" --in photos --model Qwen/Qwen2-VL-2B-Instruct

QUERY is a picture if it ends as a picture's name does, else a text; --in takes what `embed` takes. What is searched is
embedded once and kept in a store by what decides it, so a second search is fast. The score is the cosine.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.table import Table

from gen2embed.commands.embed import add_store_argument
from gen2embed.commands.given import add_model_arguments, is_picture, load_model, read_items
from gen2embed.encoder.engine import Engine
from gen2embed.miners.approximate import Approximate
from gen2embed.peers import ALONE
from gen2embed.search import Exact, Search
from gen2embed.tables import print_table
from gen2embed.types import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("query", metavar="QUERY")
    parser.add_argument("--in", type=Path, required=True, dest="where", metavar="PATH", help="a folder or a file")
    parser.add_argument("--image-dir", type=Path, metavar="FOLDER", help="of a file's pictures; default beside it")
    parser.add_argument("--top", type=int, default=10, metavar="K", help="how many to show (default 10)")
    parser.add_argument("--approximate", action="store_true", help="by a faiss index, for millions")
    add_store_argument(parser)
    add_model_arguments(parser)


def run(args: argparse.Namespace) -> None:
    if args.top < 1:
        raise UserError(f"--top is at least 1; got {args.top}")
    if not args.query.strip():
        raise UserError("QUERY is empty; give a text or a picture's path")
    given = read_items(args.where, args.image_dir)
    query = {"image": args.query} if is_picture(Path(args.query)) else args.query
    model = load_model(args)
    vector = model.encode(query, "query").numpy()
    candidates = Engine(store=args.store).encode(model, given.items, "candidate").vectors.numpy()
    index = Approximate(candidates, Search(), None, ALONE) if args.approximate else Exact(candidates)
    found = index(vector, min(args.top, len(candidates)))[0]
    table = Table(title=f"nearest to {args.query}")
    for name in ("rank", "score", "candidate"):
        table.add_column(name, justify="left" if name == "candidate" else "right")
    names = given.names
    for rank, row in enumerate(found, 1):
        table.add_row(str(rank), f"{vector[0] @ candidates[row]:.4f}", names[row])
    print_table(table)
