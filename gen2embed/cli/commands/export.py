"""Export a model: the work of `python -m gen2embed export`."""

from __future__ import annotations

import argparse
from dataclasses import fields

from gen2embed.export.write import ExportSource, export


def run(args: argparse.Namespace) -> None:
    """Export a model and print the result of the check; raises `UserError` as `export` does."""
    source = ExportSource(**{field.name: getattr(args, field.name) for field in fields(ExportSource)})
    check = export(args.kind, source, args.output, args.dtype)
    rounding = f"; rounding the weights left {check['rounding']:.5f}" if "rounding" in check else ""
    print(f"{args.output} written: least cosine to the model {check['parity']:.7f}{rounding}")
