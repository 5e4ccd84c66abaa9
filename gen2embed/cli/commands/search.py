"""Rank items by a query: the work of `python -m gen2embed search`."""

from __future__ import annotations

import argparse
import difflib
import os
import re
from pathlib import Path

from rich.table import Table

from gen2embed.cli.commands.folder import HEIC_ENDINGS, PICTURES, why_no_picture
from gen2embed.cli.commands.inputs import load_model, read_inputs
from gen2embed.data.items import Input
from gen2embed.data.pictures import check_pictures
from gen2embed.encoding.engine import Engine
from gen2embed.outputs.paths import check_store
from gen2embed.runs.console import print_table
from gen2embed.search.approximate import Approximate
from gen2embed.search.exact import Exact, Search
from gen2embed.types import ImagePart
from gen2embed.utils.content import not_a_file, shown
from gen2embed.utils.errors import UserError
from gen2embed.utils.path_names import similar_file
from gen2embed.utils.rank_group import ALONE
from gen2embed.utils.redaction import visible

LONGEST = 300  # characters of a text in the table
# Endings of pictures, also of kinds that cannot be read; and those that an ending with a typing error may mean
ENDINGS = (*PICTURES, *HEIC_ENDINGS, ".svg", ".ico", ".psd", ".eps", ".jxl", ".dng", ".nef", ".cr2", ".arw", ".raw")
COMMON = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".heic", ".avif", ".jfif")


def run(args: argparse.Namespace) -> None:
    """Print the nearest candidates; raises `UserError` for a query or candidates that are refused."""
    if args.top < 1:
        raise UserError(f"--top is at least 1; got {args.top}")
    if not args.query.strip():
        raise UserError("QUERY is empty; give a text or a picture's path")
    query = args.query if args.text else _query(args.query)
    store = check_store(args.store)
    inputs = read_inputs(args.where, args.image_dir)
    if inputs.skipped:
        print(visible(inputs.skipped))
    model = load_model(args)
    vector = model.encode(query, "query").numpy()
    candidates = Engine(store=store).encode(model, inputs.items, "candidate").vectors.numpy()
    index = Approximate(candidates, Search(), None, ALONE) if args.approximate else Exact(candidates)
    nearest = index(vector, min(args.top, len(candidates)))[0]
    table = Table(title=f"nearest to {_shortened(args.query)}")
    for name in ("rank", "score", "candidate"):
        table.add_column(name, justify="left" if name == "candidate" else "right")
    names = inputs.names
    for rank, row in enumerate(nearest, 1):
        table.add_row(str(rank), f"{vector[0] @ candidates[row]:.4f}", _shortened(names[row]))
    print_table(table)


def _shortened(text: str) -> str:
    """Return a text cut for the table."""
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def _query(text: str) -> Input:
    """Return QUERY as a picture or a text.

    Raises:
        UserError: For what looks like a picture and is none: a file that is missing or broken, an address, base64.
    """
    forced = "; --text searches for it as a text"
    if why := not_a_file(text):
        raise UserError(f"QUERY {shown(text)} {why}{forced}")
    path = Path(text)
    exists = os.path.isfile(path)  # noqa: PTH113  (which raises for no text, however long)
    if not _looks_like_picture(text) and not (exists and ("/" in text or path.suffix)):
        return text
    if not exists:
        meant = f" (did you mean {similar}?)" if (similar := similar_file(path)) else ""
        raise UserError(f"the picture {shown(text)} does not exist{meant}{forced}")
    if why := why_no_picture(path):
        raise UserError(f"QUERY {shown(text)} is a file: {why}{forced}")
    check_pictures([ImagePart(path)])
    return {"image": path}


def _looks_like_picture(text: str) -> bool:
    """Return whether a text ends like a picture's name, or nearly."""
    if (match := re.search(r"\.[A-Za-z0-9]{2,6}$", text)) is None:
        return False
    ending = match[0].lower()
    return ending in ENDINGS or bool(difflib.get_close_matches(ending, COMMON, 1, 0.75))
