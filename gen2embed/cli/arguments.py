"""Arguments that several commands share: the model, and the store of embeddings."""

from __future__ import annotations

import argparse
from pathlib import Path

from gen2embed.utils.choices import CONVENTIONS

STORE = Path("outputs/embeddings")  # `paths.embedding_dir` of conf


def add_model_arguments(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Declare the arguments that `commands.inputs.load_model` reads."""
    group = parser.add_argument_group("model", "prompt, convention and resolution are by default the checkpoint's own")
    group.add_argument("--model", metavar="PATH", required=required, help="a folder, a hub id, or an adapter's folder")
    group.add_argument("--adapter", metavar="PATH", help="a folder or hub id of an adapter to load onto the model")
    group.add_argument("--prompt", help="hierarchical, system, suffix, none, ...")
    group.add_argument("--convention", choices=CONVENTIONS, help="of the prompt")
    group.add_argument("--resolution", help="clamp, clip, original, ...")


def add_store_argument(parser: argparse.ArgumentParser) -> None:
    """Declare the store of embeddings."""
    help_ = f"where embeddings are kept for later commands (default {STORE})"
    parser.add_argument("--store", type=Path, default=STORE, metavar="FOLDER", help=help_)
