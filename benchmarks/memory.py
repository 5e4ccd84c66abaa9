"""What a cached step holds over the loaded model: the published scheme's, sentence-transformers', and ours.

    python benchmarks/memory.py                                   # a quarter of an hour on one CPU thread
    python benchmarks/memory.py --schemes ours --works pictures

Every line is a process of its own: it loads a random Qwen2-VL (yardstick.py) with DoRA, takes a step of all pairs, and
then the same one again. The peak is that of the resident memory over what was held between the two. Ours has its inputs
made before the step, as a loader's workers do, and `inputs` is what they hold, which grows with the batch whatever is
done with them; the others make theirs chunk by chunk. Every tensor of some size is mapped and unmapped by itself, so
that what was freed does not count; glibc would keep it for the next tensor. Ours keeps no graphs; its chunks are as its
device has them by default, the others' of 16 samples. `plain` is the whole batch in one graph. Nothing here depends on
time.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from comparison import COMMIT
from ours import make_step
from resident import forget_peak, give_back_memory, resident
from rich.table import Table
from rivals import ORIGINAL, Reference, dora, start
from sentence_rival import SentenceTransformers
from yardstick import OURS, REFERENCE, RIVAL, SHAPES, console, draw_pairs, save_checkpoint

from gen2embed import Embedder
from gen2embed.outputs.paths import check_file
from gen2embed.outputs.redacted import write_json
from gen2embed.types import Pair

PLAIN = "plain"
SCHEMES = (REFERENCE, RIVAL, OURS, PLAIN)
CHUNK = 16  # samples of the others
MAPPED = {"MALLOC_MMAP_THRESHOLD_": str(2**16), "MALLOC_TRIM_THRESHOLD_": str(2**16)}  # bytes; mallopt(3)


def load(scheme: str, folder: Path) -> tuple[Callable[[Sequence[Pair]], Any], Callable[[Any], object]]:
    """Return what a scheme makes of pairs before a step, and the step, which takes that."""
    embedder = Embedder.from_pretrained(folder, prompt="hierarchical", resolution=ORIGINAL, device="cpu")
    prompt = embedder.build.prompt
    if scheme == OURS:
        embedder = replace(embedder, backbone=dora(0.0).attach(embedder.backbone))
        start(embedder.backbone.full)
        embedder.backbone.full.train()
        return make_step(embedder, keep=0)
    if scheme == RIVAL:
        return list, SentenceTransformers.load(folder, prompt, CHUNK, "float32", "cpu").adapted(0.0).step
    reference = Reference.load(folder, prompt, CHUNK, "float32", "cpu").adapted(0.0)
    return list, reference.plain_step if scheme == PLAIN else reference.step


def measure(folder: Path, scheme: str, work: str, pairs: int, side: int) -> dict[str, float]:
    """Measure one step, in this process."""
    prepare, step = load(scheme, folder)
    batch = draw_pairs(work, pairs, side)
    step(prepare(batch))
    give_back_memory()
    before = resident("VmRSS")
    prepared = prepare(batch)
    give_back_memory()
    inputs = resident("VmRSS") - before
    forget_peak()
    step(prepared)
    return {"over": resident("VmHWM") - before, "inputs": inputs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--works", nargs="+", choices=("pictures", "texts"), default=["pictures", "texts"])
    parser.add_argument("--schemes", nargs="+", choices=SCHEMES, default=list(SCHEMES))
    parser.add_argument("--pairs", type=int, nargs="+", default=[64, 256, 1024])
    parser.add_argument("--side", type=int, default=112, help="of a picture, pixels")
    parser.add_argument("--shape", choices=SHAPES, default="small")
    parser.add_argument("--output", type=Path, default=Path("outputs/benchmarks"))
    parser.add_argument("--single", help=argparse.SUPPRESS)
    args = parser.parse_args()
    for name in ("memory.json",):
        check_file(args.output / name, "benchmark")
    if args.single:
        folder, *single = json.loads(args.single)
        print(json.dumps(measure(Path(folder), *single)))
        return
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(SHAPES[args.shape], Path(folder))
        for work in args.works:
            for scheme in args.schemes:
                for pairs in args.pairs[:1] if scheme == PLAIN else args.pairs:
                    task = json.dumps([folder, scheme, work, pairs, args.side])
                    command = [sys.executable, __file__, "--single", task]
                    environment = {**os.environ, **MAPPED}
                    output = subprocess.run(
                        command, stdout=subprocess.PIPE, text=True, check=True, env=environment
                    ).stdout
                    line = {"work": work, "scheme": scheme, "pairs": pairs, **json.loads(output.splitlines()[-1])}
                    rows.append(line)
    show(rows, args.pairs)
    write_json(args.output / "memory.json", {"commit": COMMIT, "arguments": vars(args), "rows": rows}, by="benchmark")


def show(rows: Sequence[dict[str, Any]], pairs: Sequence[int]) -> None:
    """Print a row for each scheme, a column for each number of pairs, and how ours grows without its inputs."""
    table = Table(title=f"peak over the model, MiB, by pairs; commit {COMMIT}", min_width=72)
    for column in ("work", "scheme", *map(str, pairs)):
        table.add_column(column, justify="left" if column in ("work", "scheme") else "right")
    growth = []
    for work in dict.fromkeys(row["work"] for row in rows):
        work_rows = [row for row in rows if row["work"] == work]
        for scheme in dict.fromkeys(row["scheme"] for row in work_rows):
            over = {row["pairs"]: row["over"] for row in work_rows if row["scheme"] == scheme}
            table.add_row(work, scheme, *(f"{over[count]:.0f}" if count in over else "" for count in pairs))
        ours = [row for row in work_rows if row["scheme"] == OURS]
        if ours:
            inputs = {row["pairs"]: row["inputs"] for row in ours}
            table.add_row(work, "  inputs of ours", *(f"{inputs[count]:.0f}" for count in pairs), style="dim")
        if len(ours) > 1:
            first, second = (row["over"] - row["inputs"] for row in ours[-2:])
            growth.append(
                f"{work}: from {pairs[-2]} to {pairs[-1]} pairs, ours without its inputs {second / first - 1:+.1%}"
            )
        table.add_section()
    console.print(table)
    for line in growth:
        console.print(line)


if __name__ == "__main__":
    main()
