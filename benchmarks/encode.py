"""How fast items become vectors: the published method's scheme, sentence-transformers, and ours, on the same weights.

    python benchmarks/encode.py                            # a quarter of an hour on one CPU thread
    python benchmarks/encode.py --short --output outputs/bench
    python benchmarks/encode.py --works texts --profile    # where the time of ours goes, beside the floor
    python benchmarks/encode.py --works dora --shape wide  # an unmerged DoRA adapter, at the width of Qwen2-VL-2B

The schemes take turns in one process. Seconds are of all CPU work, or between events on a GPU; ratios are medians over
rounds. The difference is the largest, in an element of a unit vector, from the whole model in float32, item by item.

`dora` is the mix by the base, by an adapter on it whose norms are kept, by the same as peft runs it, and merged.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from comparison import COMMIT, Compared, say, show, update_speed
from ours import Drawn, encode
from peft.tuners.lora.dora import DoraLinearLayer
from rich.table import Table
from rivals import ORIGINAL, Reference, dora, start
from sentence_rival import SentenceTransformers
from torch import Tensor
from yardstick import (
    OURS,
    REFERENCE,
    RIVAL,
    SHAPES,
    alternate,
    console,
    draw_items,
    floor,
    matmul_rate,
    over,
    profile,
    proportions,
    save_checkpoint,
)

from gen2embed import Embedder
from gen2embed.model.adapter import merge
from gen2embed.model.dora import CachingDoraLayer
from gen2embed.outputs.paths import check_file
from gen2embed.outputs.redacted import write_json

WORKS = ("pictures", "texts", "labels", "mix")
DORA = "dora"
BASE, KEPT, PEFT, MERGED = "the base", "DoRA, norms kept", "DoRA as peft has it", "DoRA, merged"


def compare(args: argparse.Namespace, folder: Path) -> tuple[list[Compared], list[dict[str, Any]]]:
    """Return the comparison of every work by every scheme, and the floor of every work, with a profile if asked for."""
    shape, dtype = SHAPES[args.shape], getattr(torch, args.dtype)
    embedder = Embedder.from_pretrained(
        folder, prompt="hierarchical", resolution=ORIGINAL, dtype=args.dtype, device=args.device
    )
    common = (folder, embedder.build.prompt, args.batch)
    reference = Reference.load(*common, args.dtype, args.device)
    theirs = SentenceTransformers.load(*common, args.dtype, args.device)
    exact = Reference.load(*common, "float32", args.device)
    device = embedder.backbone.device
    rate = matmul_rate(shape, device, dtype)
    comparisons, floors = list[Compared](), list[dict[str, Any]]()
    for work in filter(DORA.__ne__, args.works):
        draw = partial(draw_items, work, args.items, args.side)
        items, role = draw()
        schemes: dict[str, Callable[[Drawn], Tensor]] = {
            REFERENCE: lambda drawn: reference.encode(*drawn),
            RIVAL: lambda drawn: theirs.encode(*drawn),
            OURS: partial(encode, embedder),
        }
        seconds, vectors = alternate(schemes, draw, args.rounds, device)
        some = items[: args.checked]
        truth = exact.encode(some, role, batch=1)
        apart = {name: (embedded[: len(some)] - truth).abs().max().item() for name, embedded in vectors.items()}
        comparisons.append(Compared(f"encode_{work}", seconds, apart))
        say(comparisons[-1])
        operations = sum(floor(shape, items, role, embedder.build))
        cosine = (truth @ truth.T).mean().item()  # near 1, any two vectors would look equal
        floors.append({"work": f"encode_{work}", "floor_operations": operations, "rate": rate, "mean_cosine": cosine})
        if args.profile:
            console.print(f"\nours, encode_{work}")
            floors[-1]["profile"] = profile(partial(encode, embedder, draw()), operations, rate, device)
    return comparisons, floors


def compare_adapter(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Compare the mix by the base with the mix by a DoRA adapter in three ways; print seconds over the base's."""

    def load() -> Embedder:
        return Embedder.from_pretrained(folder, resolution=ORIGINAL, dtype=args.dtype, device=args.device)

    def adapted() -> Embedder:
        embedder = load()
        embedder = replace(embedder, backbone=dora(0.0).attach(embedder.backbone))
        start(embedder.backbone.full)
        embedder.backbone.full.eval()
        return embedder

    peft, merged = adapted(), adapted()
    for layer in peft.backbone.full.modules():
        if isinstance(layer, CachingDoraLayer):
            layer.__class__ = DoraLinearLayer
    merged = replace(merged, backbone=merge(merged.backbone))
    embedders = {BASE: load(), KEPT: adapted(), PEFT: peft, MERGED: merged}
    schemes = {name: partial(encode, embedder) for name, embedder in embedders.items()}
    draw = partial(draw_items, "mix", args.items, args.side)
    seconds, vectors = alternate(schemes, draw, args.rounds, embedders[BASE].backbone.device)
    table = Table(title=f"the mix of {args.items} items, and a DoRA adapter; commit {COMMIT}")
    for column in ("scheme", "seconds", "over the base's", "from peft's"):
        table.add_column(column, justify="left" if column == "scheme" else "right")
    rows = []
    for name, taken in seconds.items():
        slower, apart = over(taken, seconds[BASE]), (vectors[name] - vectors[PEFT]).abs().max().item()
        equal = "the same bits" if torch.equal(vectors[name], vectors[PEFT]) else f"{apart:.1e}"
        rows.append({"scheme": name, "seconds": taken, "over_base": slower, "from_peft": apart})
        table.add_row(name, f"{statistics.median(taken):.3f}", f"{slower:.2f}", "" if name == BASE else equal)
    console.print(table)
    return {"work": DORA, "schemes": rows}


def show_floors(comparisons: list[Compared], floors: list[dict[str, Any]], items: int) -> None:
    """Print items a second, and the share of the device's peak that the floor's operations make."""
    table = Table(title="the least that must be computed, over what the device can")
    for column in ("work", "scheme", "items a second", "GFLOP of the floor", "share of the peak"):
        table.add_column(column, justify="left" if column in ("work", "scheme") else "right")
    for compared, bound in zip(comparisons, floors, strict=True):
        for name, seconds in compared.seconds.items():
            median = statistics.median(seconds)
            share = bound["floor_operations"] / median / bound["rate"]
            bound[name] = {"items_per_second": items / median, "share_of_peak": share}
            floored = f"{bound['floor_operations'] / 1e9:.1f}"
            table.add_row(compared.work, name, f"{items / median:.1f}", floored, f"{share:.0%}")
    console.print(table)
    console.print("the peak is that of a large product; what is computed twice, or for padding, does not count")
    cosines = ", ".join(f"{bound['mean_cosine']:.2f} ({bound['work']})" for bound in floors)
    console.print(f"mean cosine of two items of a work: {cosines}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--works", nargs="+", choices=(*WORKS, DORA), default=(*WORKS, DORA))
    parser.add_argument("--items", type=int, default=64, help="of each work")
    parser.add_argument("--side", type=int, default=224, help="of a picture, pixels")
    parser.add_argument("--rounds", type=int, help="5; 3 if --short")
    parser.add_argument("--batch", type=int, default=16, help="of the others; ours finds its own")
    parser.add_argument("--checked", type=int, default=64, help="items of each work that the truth is computed for")
    parser.add_argument("--short", action="store_true", help="fewer rounds; writes speed.json")
    parser.add_argument("--profile", action="store_true", help="where the time of ours goes")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--shape", choices=SHAPES, default="small")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--output", type=Path, default=Path("outputs/benchmarks"))
    args = parser.parse_args()
    for name in ("encode.json", "speed.json"):
        check_file(args.output / name, "benchmark")
    args.rounds = args.rounds or (3 if args.short else 5)
    shape = SHAPES[args.shape]
    console.print(f"shape {args.shape}: {proportions(shape)}")
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(shape, Path(folder), getattr(torch, args.dtype), args.device)
        comparisons, floors = compare(args, Path(folder)) if set(args.works) - {DORA} else ([], [])
        adapter = [compare_adapter(args, Path(folder))] if DORA in args.works else []
    clock = "CPU seconds" if args.device == "cpu" else "GPU seconds"
    if comparisons:
        show(
            comparisons, f"encoding, {args.items} items, {torch.get_num_threads()} threads", clock, "largest difference"
        )
        show_floors(comparisons, floors, args.items)
    described = [compared.describe() for compared in comparisons]
    result = {"commit": COMMIT, "arguments": vars(args), "works": described, "floors": floors, "adapter": adapter}
    write_json(args.output / "encode.json", result, by="benchmark")
    if args.short:
        update_speed(args.output / "speed.json", {compared.work: (compared, OURS) for compared in comparisons})


if __name__ == "__main__":
    main()
