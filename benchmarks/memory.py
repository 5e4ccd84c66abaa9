"""What a gradient-cached step holds: it grows with the chunk, and hardly with the batch.

    python benchmarks/memory.py                                     # a few minutes on two CPU cores
    python benchmarks/memory.py --pairs 64 256 --chunks 8 16 --output outputs/benchmarks

Every line is a process of its own: it loads a random Qwen2-VL, builds all inputs, and takes one step with LoRA. The
peak is that of the resident memory over what was held before the step, model and inputs among it. `plain` keeps the
graph of the whole batch, for comparison. Nothing here depends on time.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import transformers
from PIL import Image
from rich.console import Console
from rich.table import Table

from gen2embed import Embedder, Item
from gen2embed.data.datamodules import Collate
from gen2embed.encoder.adapter import Lora
from gen2embed.gradcache import backward_cached
from gen2embed.losses import InfoNCE
from gen2embed.presets import PACKAGE
from gen2embed.report import git_commit, write_json
from gen2embed.types import Pair

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "down_proj")
WORDS = ("a", "large", "small", "red", "blue", "circle", "star", "left", "of", "striped", "on", "white")


def build(hidden: int, layers: int) -> Embedder:
    """The shipped model's tokenizer and pictures, with random weights of another size."""
    embedder = Embedder.from_pretrained(PACKAGE / "tiny" / "checkpoint", resolution="original", device="cpu")
    config = embedder.backbone.full.config
    text = config.text_config
    text.hidden_size = config.vision_config.hidden_size = hidden
    text.num_hidden_layers, text.intermediate_size = layers, 3 * hidden
    text.layer_types = ["full_attention"] * layers
    heads = text.num_attention_heads
    text.rope_parameters = {
        **text.rope_parameters,
        "mrope_section": [hidden // heads // 2 - 2 * (n := hidden // heads // 6), n, n],
    }
    model = transformers.Qwen2VLForConditionalGeneration(config).eval().requires_grad_(False)
    backbone = replace(embedder.backbone, full=model, model=model.base_model)
    return replace(embedder, backbone=Lora(TARGETS, dropout=0.0).attach(backbone))


def draw(count: int, words: int) -> list[Pair]:
    """Pictures with a question, and texts, all distinct."""
    rng = np.random.default_rng(0)
    pairs = []
    for row in range(count):
        picture = Image.fromarray(rng.integers(256, size=(84, 84, 3), dtype=np.uint8))
        said = [" ".join(rng.choice(WORDS, words)) for _ in range(2)]
        pairs.append(Pair(Item.of(said[0], picture), Item.of(said[1]), "drawn", row))
    return pairs


def resident() -> float:
    """MiB of this process now."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 2**10


def measure(pairs: int, chunk: int, plain: bool, hidden: int, layers: int, words: int) -> dict[str, float]:
    """One step, in this process."""
    torch.manual_seed(0)
    embedder = build(hidden, layers)
    batch = Collate(embedder.build, chunk, chunk)(draw(pairs, words))
    identical = batch.positives[:, None] == batch.positives
    embedder.backbone.full.train()

    def loss(everything: torch.Tensor) -> torch.Tensor:
        return InfoNCE()(*everything[batch.order].chunk(2), identical, identical)

    inputs = sum(tensor.nbytes for inputs in batch.chunks for tensor in inputs.values()) / 2**20
    before = resident()
    if plain:
        loss(torch.cat([embedder.embed_inputs(inputs) for inputs in batch.chunks])).backward()
    else:
        backward_cached(batch.chunks, embedder.embed_inputs, loss)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    return {"inputs": inputs, "before": before, "over": peak - before}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, nargs="+", default=[64, 256, 1024])
    parser.add_argument("--chunks", type=int, nargs="+", default=[16, 32])
    parser.add_argument("--plain-pairs", type=int, default=64, help="of the step with one graph; 0 leaves it out")
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--words", type=int, default=60)
    parser.add_argument("--output", type=Path, default=Path("outputs/benchmarks"))
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    size = (args.hidden, args.layers, args.words)
    if args.one:
        print(json.dumps(measure(*json.loads(args.one), *size)))
        return
    lines = [(pairs, chunk, False) for chunk in args.chunks for pairs in args.pairs]
    lines += [(args.plain_pairs, args.chunks[0], True)] * (args.plain_pairs > 0)
    found = []
    for line in lines:
        command = [sys.executable, *sys.argv, "--one", json.dumps(line)]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
        found.append({"pairs": line[0], "chunk": line[1], "plain": line[2], **json.loads(said)})
    table = Table(title=f"memory of a step, MiB; commit {git_commit()}")
    for column in ("step", "pairs", "chunk", "stored inputs", "before the step", "peak over it"):
        table.add_column(column, justify="left" if column == "step" else "right")
    for row in found:
        numbers = (f"{row[name]:.0f}" for name in ("inputs", "before", "over"))
        table.add_row("plain" if row["plain"] else "cached", str(row["pairs"]), str(row["chunk"]), *numbers)
    console = Console(width=120)
    console.print(table)
    for chunk in args.chunks:
        two = [row["over"] for row in found if row["chunk"] == chunk and not row["plain"]][-2:]
        console.print(
            f"chunk {chunk}: the largest batch takes {100 * (two[-1] / two[0] - 1):+.1f} % over the one before"
        )
    write_json(args.output / "memory.json", {"commit": git_commit(), "arguments": vars(args), "rows": found})


if __name__ == "__main__":
    main()
