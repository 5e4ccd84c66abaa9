"""What a GPU makes of gen2embed: rates, right values, encoding, training, search; eight rows in at most eight minutes.

    python benchmarks/gpu.py --rows 1-4 --output outputs/gpu    # at most 240 s on an H100
    python benchmarks/gpu.py --rows 5-8 --output outputs/gpu    # at most 360 s
    python benchmarks/gpu.py --small                            # every row in small shapes on a CPU

Qwen2-VL's shape with random weights, which are made on the device, and the shipped tokenizer. Every figure is printed
and appended to figures.jsonl as soon as it is known; report.md is the table, written after each row, and errors.txt has
the tracebacks of rows that failed. A row has a budget of seconds, after which it is cut. No setting of the card is
changed. GEN2EMBED_COMMIT, or a file COMMIT in the checkout, tells the commit of a copy without git.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # processes are forked

import psutil
import torch
import transformers
from gpu_rows import encoding, gradients, limits, rates, searching, steps, vectors
from gpu_rows.bench import SMALL, Bench, real
from gpu_rows.machine import describe_machine
from gpu_rows.recorder import Recorder, Row, is_free, run_rows
from yardstick import SHAPES

ROWS = (
    Row(1, "the yardstick: a large matrix product, and copies", 20, rates.run),
    Row(2, "vectors against the CPU in float32", 45, vectors.run),
    Row(3, "the cached gradient against the whole batch", 45, gradients.run),
    Row(4, "encoding", 90, encoding.run),
    Row(5, "encoding by the others, on the same weights", 60, encoding.run_rivals),
    Row(6, "a cached step", 145, steps.run),
    Row(7, "the most pairs, the fastest chunk, the profile", 70, limits.run),
    Row(8, "search", 40, searching.run),
)


def chosen(text: str) -> list[Row]:
    """Return the rows of a list such as `1-4` or `2,5-6`."""
    numbers: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        try:
            numbers |= set(range(int(first), int(last or first) + 1))
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is no list of rows such as 1-4 or 2,5-6") from None
    if not numbers or numbers - {row.number for row in ROWS}:
        raise argparse.ArgumentTypeError(f"there are rows 1 to {len(ROWS)}; got {text!r}")
    return [row for row in ROWS if row.number in numbers]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=chosen, default=list(ROWS), help="such as 1-4, or 2,5-6; all")
    parser.add_argument("--output", type=Path, default=Path("outputs/gpu"))
    parser.add_argument("--shape", choices=("2b", "7b"), default="2b", help="Qwen2-VL's, of the rows that measure time")
    parser.add_argument("--small", action="store_true", help="small shapes, on the CPU")
    args = parser.parse_args()
    if not args.small and not torch.cuda.is_available():
        parser.error("there is no GPU; --small runs every row in small shapes on the CPU")
    warnings.filterwarnings("ignore", category=FutureWarning)
    if not is_free(args.output):
        parser.error(f"{args.output} holds files that this benchmark did not write; choose another --output")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    device = torch.device("cpu" if args.small else "cuda")
    workers = max(1, len(os.sched_getaffinity(0)) - 1)
    setting = SMALL if args.small else real(SHAPES[args.shape], workers)
    shape = "small shapes: speeds mean nothing" if args.small else f"Qwen2-VL-{args.shape.upper()}'s shape"
    began = f"{time.time() - psutil.Process().create_time():.0f} s before the first row"
    recorder = Recorder(args.output, {**describe_machine(device), "weights": f"random, {shape}", "start": began})
    run_rows(args.rows, Bench(device, setting, recorder), recorder)
    print(f"\n{recorder.write_report()}\n{recorder.elapsed:.0f} s", flush=True)


if __name__ == "__main__":
    main()
