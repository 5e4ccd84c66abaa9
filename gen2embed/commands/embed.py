"""Embed texts and pictures from a file or a folder.

    python -m gen2embed embed photos --model Qwen/Qwen2-VL-2B-Instruct --role candidate --output photos.parquet
    python -m gen2embed embed questions.txt --model outputs/run/adapter --output questions.npy --precision int8

INPUT is a text file (a line an input), a .parquet, .jsonl or .csv file with columns text and image (one is enough), a
picture, or a folder of pictures, at any depth. A .npy output holds the vectors, a row an input; a .parquet one also its
columns text and image, and in the file's metadata what made them. Embeddings are kept in a store by what decides them,
so that a run that was stopped goes on when the same command is given again.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Num

from gen2embed.commands.given import Given, add_model_arguments, load_model, read_items
from gen2embed.compression import PRECISIONS, check, compress
from gen2embed.encoder.engine import Engine
from gen2embed.files import write_atomic
from gen2embed.types import ROLES, UserError

STORE = Path("outputs/embeddings")  # as `paths.embedding_dir` of conf


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("input", type=Path, metavar="INPUT")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="a .npy or .parquet file")
    parser.add_argument("--role", choices=ROLES, default="query", help="default query")
    parser.add_argument("--image-dir", type=Path, metavar="FOLDER", help="of a file's pictures; default beside it")
    parser.add_argument("--truncate-dim", type=int, metavar="D", help="keep the first D elements")
    parser.add_argument("--precision", choices=PRECISIONS, default="float32", help="default float32")
    add_store_argument(parser)
    add_model_arguments(parser)


def add_store_argument(parser: argparse.ArgumentParser) -> None:
    help_ = f"where embeddings are kept, to go on from; default {STORE}"
    parser.add_argument("--store", type=Path, default=STORE, metavar="FOLDER", help=help_)


def run(args: argparse.Namespace) -> None:
    if args.output.suffix not in (".npy", ".parquet"):
        raise UserError(f"--output {args.output} is neither a .npy nor a .parquet file")
    given = read_items(args.input, args.image_dir)
    model = load_model(args)
    dim = check(args.truncate_dim, args.precision, model.dim)
    encoded = Engine(store=args.store).encode(model, given.items, args.role)
    codes = compress(encoded.vectors, dim, args.precision).numpy()
    if args.output.suffix == ".npy":
        write_atomic(args.output, partial(np.save, arr=codes, allow_pickle=False))
    else:
        made_by = {"fingerprint": model.fingerprint, "role": args.role, "dim": dim, "precision": args.precision}
        table = to_table(given, codes, made_by)
        write_atomic(args.output, lambda file: pq.write_table(table, file))
    known = f", of which {encoded.reused} were known" if encoded.reused else ""
    print(f"{args.output} written: {len(codes):,} vectors of {dim} elements in {args.precision}{known}")


def to_table(given: Given, codes: Num[np.ndarray, "n c"], made_by: dict[str, Any]) -> pa.Table:
    """The columns of what was given, and `embedding`; `made_by` is JSON under `gen2embed` in the metadata."""
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(codes.reshape(-1)), codes.shape[1])
    metadata = {"gen2embed": json.dumps(made_by, default=str)}
    return pa.table({**given.columns, "embedding": vectors}, metadata=metadata)
