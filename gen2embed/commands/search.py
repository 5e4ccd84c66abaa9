"""Rank items by a query: the work of `python -m gen2embed search`."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.table import Table

from gen2embed.commands.given import is_picture, load_model, read_items
from gen2embed.encoder.engine import Engine
from gen2embed.miners.approximate import Approximate
from gen2embed.peers import ALONE
from gen2embed.search import Exact, Search
from gen2embed.tables import print_table
from gen2embed.types import UserError


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
