"""How fast the gradient of a large batch is had: the published method's cached step, sentence-transformers', and ours.

    python benchmarks/train_step.py                        # half an hour on one CPU thread
    python benchmarks/train_step.py --short --output outputs/bench
    python benchmarks/train_step.py --works step_texts --profile
    python benchmarks/train_step.py --distinct             # the same with no picture and no text twice in a batch
    python benchmarks/train_step.py --gpu                  # Qwen2-VL-2B's shape, random weights, bf16, 448 x 448

The schemes have the same weights and adapters and take turns in one process; inputs are made inside the step. The
error is the largest of all parameters' relative errors against the whole batch in one graph. `ours` keeps no chunk's
graph, `ours, graphs kept` all of them, so that there is no second forward pass. In step_recipe, with the paper's
dropout of 0.1, gradients have no common truth; there ours with graphs kept tells whether ours without replays every
chunk: the gradients are then the same bits.

With --gpu it is step time, pairs a second, and the peak over what is held before the step, for each number of pairs.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from comparison import COMMIT, Compared, say, show, update_speed
from ours import ALL, Step, seeded
from ours import step as ours_step
from rich.table import Table
from rivals import ORIGINAL, Reference, dora, gradient_error, start
from sentence_rival import SentenceTransformers
from yardstick import (
    OURS,
    REFERENCE,
    RIVAL,
    SHAPES,
    alternate,
    console,
    draw_pairs,
    floor,
    matmul_rate,
    peak_memory,
    profile,
    proportions,
    save_checkpoint,
    timed,
)

from gen2embed import Embedder, Item
from gen2embed.report import write_json
from gen2embed.types import Role

KEPT = f"{OURS}, graphs kept"
WORKS = {"step_pictures": ("pictures", 0.0), "step_texts": ("texts", 0.0), "step_recipe": ("pictures", 0.1)}


def load(args: argparse.Namespace, folder: Path, dropout: float) -> tuple[Embedder, Reference, SentenceTransformers]:
    """Three models with the same weights and adapters, ready to be trained."""
    embedder = Embedder.from_pretrained(
        folder, prompt="hierarchical", resolution=ORIGINAL, dtype=args.dtype, device=args.device
    )
    prompt = embedder.build.prompt
    embedder = replace(embedder, backbone=dora(dropout).attach(embedder.backbone))
    start(embedder.backbone.full)
    embedder.backbone.full.train()
    common = (folder, prompt, args.chunk, args.dtype, args.device)
    return embedder, Reference.load(*common).adapted(dropout), SentenceTransformers.load(*common).adapted(dropout)


def compare(args: argparse.Namespace, folder: Path) -> tuple[list[Compared], list[dict[str, Any]]]:
    """Every work by every scheme, and profiles if asked for."""
    shape, device, profiles = SHAPES[args.shape], torch.device(args.device), []
    found = []
    for work in args.works:
        name, dropout = WORKS[work]
        embedder, reference, theirs = load(args, folder, dropout)
        draw = partial(draw_pairs, name, args.pairs, args.side, not args.distinct)
        models = {REFERENCE: reference.backbone.full, RIVAL: theirs.model}
        models |= dict.fromkeys((OURS, KEPT), embedder.backbone.full)
        steps: dict[str, Step] = {
            REFERENCE: reference.step,
            RIVAL: theirs.step,
            OURS: partial(ours_step, embedder, keep=0),
            KEPT: partial(ours_step, embedder, keep=ALL),
        }
        schemes = {scheme: partial(seeded, step, models[scheme]) for scheme, step in steps.items()}
        seconds, left = alternate(schemes, draw, args.rounds, device)
        apart: dict[str, float | str | None]
        if dropout:
            same = all(torch.equal(its, left[KEPT][parameter]) for parameter, its in left[OURS].items())
            apart = {OURS: "replay bit-equal" if same else f"replay {gradient_error(left[OURS], left[KEPT]):.1e}"}
        else:
            truth = seeded(reference.plain_step, reference.backbone.full, draw())
            apart = {scheme: gradient_error(its, truth) for scheme, its in left.items()}
        found.append(Compared(work, seconds, apart))
        say(found[-1])
        if args.profile:
            console.print(f"\nours, {work}, no graph kept")
            pairs = draw()
            # The layers forward, once more with a graph, and back to their inputs, which costs as much again, as the
            # weights are frozen; the vision tower once. Adapters are not counted.
            sides: list[tuple[Role, list[Item]]] = [
                ("query", [pair.query for pair in pairs]),
                ("candidate", [pair.positive for pair in pairs]),
            ]
            least = [floor(shape, items, role, embedder.build) for role, items in sides]
            operations = sum(3 * text + vision for text, vision in least)
            rate = matmul_rate(shape, device, embedder.backbone.dtype)
            profiles.append({"work": work, **profile(partial(schemes[OURS], pairs), operations, rate, device)})
    return found, profiles


def measure_large(args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """A step's time and peak memory for each number of pairs, and each scheme; one that does not fit is said so."""
    embedder, reference, theirs = load(args, folder, 0.0)
    device = torch.device(args.device)
    steps: dict[str, tuple[Step, torch.nn.Module]] = {
        REFERENCE: (reference.step, reference.backbone.full),
        RIVAL: (theirs.step, theirs.model),
        OURS: (partial(ours_step, embedder, keep=0), embedder.backbone.full),
        KEPT: (partial(ours_step, embedder, keep=ALL), embedder.backbone.full),
    }
    rows = []
    for count in args.many:
        pairs = draw_pairs("pictures", count, args.side, not args.distinct)
        for scheme, (step, model) in steps.items():
            row: dict[str, Any] = {"pairs": count, "scheme": scheme}
            run = partial(seeded, step, model, pairs)
            try:
                row["peak_mib"] = peak_memory(run, device)
                row["seconds"] = [timed(run, device)[1] for _ in range(args.rounds)]
            except torch.cuda.OutOfMemoryError:
                row["peak_mib"], row["seconds"] = None, []
            model.zero_grad()
            if device.type == "cuda":
                torch.cuda.empty_cache()
            rows.append(row)
            console.print(row)
    table = Table(title=f"a cached step, pictures of {args.side} x {args.side}; commit {COMMIT}")
    for column in ("pairs", "scheme", "seconds", "pairs a second", "peak over the model, MiB"):
        table.add_column(column, justify="left" if column == "scheme" else "right")
    for row in rows:
        peak = "" if row["peak_mib"] is None else f"{row['peak_mib']:.0f}"
        median = statistics.median(row["seconds"]) if row["seconds"] else None
        timing = (f"{median:.2f}", f"{row['pairs'] / median:.1f}") if median else ("out of memory", "")
        table.add_row(str(row["pairs"]), row["scheme"], *timing, peak)
    console.print(table)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--works", nargs="+", choices=WORKS, default=list(WORKS))
    parser.add_argument("--pairs", type=int, default=32)
    parser.add_argument("--many", type=int, nargs="+", default=[256, 1024, 2048], help="pairs, with --gpu")
    parser.add_argument("--side", type=int, help="of a picture, pixels; 224, or 448 with --gpu")
    parser.add_argument("--rounds", type=int, help="5; 3 if --short or --gpu")
    parser.add_argument("--chunk", type=int, default=16, help="samples a forward pass")
    parser.add_argument("--distinct", action="store_true", help="nothing occurs twice in a batch")
    parser.add_argument("--short", action="store_true", help="fewer rounds, without the recipe; writes speed.json")
    parser.add_argument("--profile", action="store_true", help="where the time of ours goes")
    parser.add_argument("--gpu", action="store_true", help="large batches; cuda, shape 2b, bfloat16 if not said")
    parser.add_argument("--device", help="cpu, or cuda with --gpu")
    parser.add_argument("--shape", choices=SHAPES, help="small, or 2b with --gpu")
    parser.add_argument("--dtype", help="float32, or bfloat16 with --gpu")
    parser.add_argument("--output", type=Path, default=Path("outputs/benchmarks"))
    args = parser.parse_args()
    defaults = {"side": 224, "device": "cpu", "shape": "small", "dtype": "float32"}
    if args.gpu:
        defaults = {"side": 448, "device": "cuda", "shape": "2b", "dtype": "bfloat16"}
    defaults["rounds"] = 3 if args.short or args.gpu else 5
    for name, value in defaults.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    if args.short:
        args.works = [work for work in args.works if not WORKS[work][1]]
    shape = SHAPES[args.shape]
    console.print(f"shape {args.shape}: {proportions(shape)}")
    result: dict[str, Any] = {"commit": COMMIT, "arguments": vars(args)}
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(shape, Path(folder), getattr(torch, args.dtype), args.device)
        if args.gpu:
            result["rows"] = measure_large(args, Path(folder))
            write_json(args.output / "train_step_large.json", result)
            return
        found, profiles = compare(args, Path(folder))
    clock = "CPU seconds" if args.device == "cpu" else "GPU seconds"
    show(found, f"a cached step, {args.pairs} pairs, {torch.get_num_threads()} threads", clock, "gradient error")
    described = [compared.describe() for compared in found]
    write_json(args.output / "train_step.json", {**result, "works": described, "profiles": profiles})
    if args.short:
        update_speed(args.output / "speed.json", {compared.work: (compared, OURS) for compared in found})


if __name__ == "__main__":
    main()
