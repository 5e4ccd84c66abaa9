"""Write the vectors of items in a file or a folder: the work of `python -m gen2embed embed`."""

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

from gen2embed.cli.commands.inputs import InputItems, load_model, read_inputs
from gen2embed.encoding.compression import check_size, compress
from gen2embed.encoding.engine import Engine
from gen2embed.outputs.paths import check_file, check_store, write_file
from gen2embed.utils.content import wrong_with
from gen2embed.utils.errors import UserError
from gen2embed.utils.redaction import visible


def run(args: argparse.Namespace) -> None:
    """Embed the inputs and write them; raises `UserError` for an output or inputs that are refused."""
    if Path(args.output).suffix not in (".npy", ".parquet"):
        raise UserError(f"--output {args.output} is neither a .npy nor a .parquet file")
    output = check_file(args.output, "embed", inputs=[args.input])
    store = check_store(args.store)
    inputs = read_inputs(args.input, args.image_dir)
    if output.suffix == ".parquet":
        _check_names(inputs)
    if inputs.skipped:
        print(visible(inputs.skipped))
    model = load_model(args)
    dim = check_size(args.truncate_dim, args.precision, model.dim)
    encoded = Engine(store=store).encode(model, inputs.items, args.role)
    codes = compress(encoded.vectors, dim, args.precision).numpy()
    if output.suffix == ".npy":
        write_file(output, "embed", partial(np.save, arr=codes, allow_pickle=False))
    else:
        origin = {"fingerprint": model.fingerprint, "role": args.role, "dim": dim, "precision": args.precision}
        origin["items_cut"] = encoded.truncated.describe()
        table = _to_table(inputs, codes, origin)
        write_file(output, "embed", lambda file: pq.write_table(table, file))
    known = f", of which {encoded.reused} were known" if encoded.reused else ""
    truncated = encoded.truncated
    cut = f"; {truncated.count} were cut at {truncated.max_length} tokens" if truncated.count else ""
    print(visible(f"{output} written: {len(codes):,} vectors of {dim} elements in {args.precision}{known}{cut}"))


def _check_names(inputs: InputItems) -> None:
    """Raise `UserError` for the name of a picture that is not UTF-8, which parquet does not hold."""
    for name in inputs.columns.get("image", ()):
        if wrong_with(name):
            raise UserError(f"the name {name!a} is not UTF-8; rename the file, or write --output to a .npy file")


def _to_table(inputs: InputItems, codes: Num[np.ndarray, "n c"], origin: dict[str, Any]) -> pa.Table:
    """Return the columns of the inputs, and `embedding`; the origin is JSON under `gen2embed` in the metadata."""
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(codes.reshape(-1)), codes.shape[1])
    metadata = {"gen2embed": json.dumps(origin, default=str)}
    return pa.table({**inputs.columns, "embedding": vectors}, metadata=metadata)
