"""How fast the gradient of a large batch is had: the published method's cached step, sentence-transformers', and ours.

    python benchmarks/train_step.py                        # half an hour on one CPU thread
    python benchmarks/train_step.py --short --output outputs/bench
    python benchmarks/train_step.py --works step_texts --profile
    python benchmarks/train_step.py --distinct             # the same with no picture and no text twice in a batch

The schemes have the same weights and adapters and take turns in one process; inputs are made inside the step. The
error is the largest of all parameters' relative errors against the whole batch in one graph. `ours` keeps no chunk's
graph, `ours, graphs kept` all of them, so that there is no second forward pass. In step_recipe, with the paper's
dropout of 0.1, gradients have no common truth; there ours with graphs kept tells whether ours without replays every
chunk: the gradients are then the same bits.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from comparison import COMMIT, Compared, say, show, update_speed
from ours import ALL, Step, seeded
from ours import step as ours_step
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
    profile,
    proportions,
    save_checkpoint,
)

from gen2embed import Embedder, Item
from gen2embed.outputs.paths import check_file
from gen2embed.outputs.redacted import write_json
from gen2embed.utils.choices import Role

KEPT = f"{OURS}, graphs kept"
WORKS = {"step_pictures": ("pictures", 0.0), "step_texts": ("texts", 0.0), "step_recipe": ("pictures", 0.1)}


def load(args: argparse.Namespace, folder: Path, dropout: float) -> tuple[Embedder, Reference, SentenceTransformers]:
    """Return three models with the same weights and adapters, ready for training."""
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
    """Return the comparison of every work by every scheme, and profiles if asked for."""
    shape, device, profiles = SHAPES[args.shape], torch.device(args.device), []
    comparisons = []
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
            same = all(torch.equal(gradient, left[KEPT][parameter]) for parameter, gradient in left[OURS].items())
            apart = {OURS: "replay bit-equal" if same else f"replay {gradient_error(left[OURS], left[KEPT]):.1e}"}
        else:
            truth = seeded(reference.plain_step, reference.backbone.full, draw())
            apart = {scheme: gradient_error(gradients, truth) for scheme, gradients in left.items()}
        comparisons.append(Compared(work, seconds, apart))
        say(comparisons[-1])
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
    return comparisons, profiles


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--works", nargs="+", choices=WORKS, default=list(WORKS))
    parser.add_argument("--pairs", type=int, default=32)
    parser.add_argument("--side", type=int, default=224, help="of a picture, pixels")
    parser.add_argument("--rounds", type=int, help="5; 3 if --short")
    parser.add_argument("--chunk", type=int, default=16, help="samples a forward pass")
    parser.add_argument("--distinct", action="store_true", help="nothing occurs twice in a batch")
    parser.add_argument("--short", action="store_true", help="fewer rounds, without the recipe; writes speed.json")
    parser.add_argument("--profile", action="store_true", help="where the time of ours goes")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--shape", choices=SHAPES, default="small")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--output", type=Path, default=Path("outputs/benchmarks"))
    args = parser.parse_args()
    for name in ("train_step.json", "speed.json"):
        check_file(args.output / name, "benchmark")
    args.rounds = args.rounds or (3 if args.short else 5)
    if args.short:
        args.works = [work for work in args.works if not WORKS[work][1]]
    shape = SHAPES[args.shape]
    console.print(f"shape {args.shape}: {proportions(shape)}")
    result: dict[str, Any] = {"commit": COMMIT, "arguments": vars(args)}
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(shape, Path(folder), getattr(torch, args.dtype), args.device)
        comparisons, profiles = compare(args, Path(folder))
    clock = "CPU seconds" if args.device == "cpu" else "GPU seconds"
    show(comparisons, f"a cached step, {args.pairs} pairs, {torch.get_num_threads()} threads", clock, "gradient error")
    described = [compared.describe() for compared in comparisons]
    write_json(args.output / "train_step.json", {**result, "works": described, "profiles": profiles}, by="benchmark")
    if args.short:
        update_speed(args.output / "speed.json", {compared.work: (compared, OURS) for compared in comparisons})


if __name__ == "__main__":
    main()
