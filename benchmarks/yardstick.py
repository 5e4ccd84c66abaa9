"""What the speed benchmarks share: a model of real proportions, workloads, a fair clock, and tables.

    python benchmarks/yardstick.py        # the proportions of work in each shape

The small model has random weights, the shipped tokenizer and image processor, and the proportions of Qwen2-VL-2B: of
all multiplications for a token, the language-model head takes 0.178 of what the layers take, and the vision tower, for
a visual token, 1.95. Sizes in pixels, lengths in tokens.

Workloads, under the shipped hierarchical prompt:

    pictures   queries: distinct pictures with two questions each
    texts      candidates of 5 to 60 tokens, all distinct
    labels     candidates of 1 to 5 tokens, of which three sixteenths are distinct (12 of 64)
    mix        queries: a quarter like pictures, a half like texts, a quarter like labels; shuffled
    steps      pairs; pictures: queries like pictures, with as many labels as pictures for answers; texts: those of
               texts on both sides, a quarter of the candidates standing there twice. `repeats=False` repeats nothing
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from typing import Any, TypeVar

import numpy as np
import torch
import transformers
from PIL import Image
from rich.console import Console
from rich.table import Table

from examples.rehearsal.shapes import PUBLISHED, Qwen2VLShape, qwen2_vl
from gen2embed import Item
from gen2embed.config.presets import PACKAGE
from gen2embed.model.inputs import InputBuilder
from gen2embed.types import Pair
from gen2embed.utils.choices import Role

CHECKPOINT = PACKAGE / "tiny" / "checkpoint"
TEMPERATURE = 0.02
REFERENCE, RIVAL, OURS = "reference", "sentence-transformers", "ours"
console = Console(width=140)
Drawing = TypeVar("Drawing")


# --- the model ------------------------------------------------------------------------------------------------------


class Shape(Qwen2VLShape):
    """A Qwen2-VL's sizes, and how many multiplications they make."""

    @property
    def layer_weights(self) -> int:
        """Multiplications of one text layer's matrices for a token."""
        kv = self.hidden // self.heads * self.kv_heads
        return 2 * self.hidden**2 + 2 * self.hidden * kv + 3 * self.hidden * self.intermediate

    @property
    def text_weights(self) -> int:
        return self.layers * self.layer_weights

    @property
    def head_weights(self) -> int:
        return self.hidden * self.rows

    @property
    def vision_weights(self) -> int:
        """For a visual token, which is made of `merge`² patches."""
        width, merged = self.vision_width, self.vision_width * self.merge**2
        blocks = self.vision_depth * (4 + 2 * self.vision_ratio) * width**2
        embedding = 3 * 2 * self.patch**2 * width
        return self.merge**2 * (blocks + embedding) + merged * (merged + self.hidden)


PUBLISHED_SHAPES = {name: Shape(**vars(shape)) for name, shape in PUBLISHED.items()}
SHAPES = {
    **PUBLISHED_SHAPES,
    "wide": replace(PUBLISHED_SHAPES["2b"], layers=2, rows=3760, vision_depth=2, path=""),
    "small": Shape(256, 1504, 4, 4, 2, 3760, vision_width=192, vision_depth=5, vision_heads=3, mrope=(8, 12, 12)),
    "smoke": Shape(64, 128, 2, 2, 1, 1024, vision_width=64, vision_depth=2, vision_heads=2, mrope=(4, 6, 6)),
}


def proportions(shape: Shape) -> str:
    """Return in words how the multiplications by weights divide; attention over other tokens comes on top."""
    head, vision = shape.head_weights / shape.text_weights, shape.vision_weights / shape.text_weights
    return f"head / layers {head:.3f}, vision / layers {vision:.2f} a visual token, layers {shape.text_weights:,}"


def make_model(
    shape: Shape, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu", seed: int = 0
) -> transformers.Qwen2VLForConditionalGeneration:
    """Return a random model of a shape, made on the device."""
    config = qwen2_vl(shape, transformers.AutoTokenizer.from_pretrained(CHECKPOINT), rows=shape.rows)
    with torch.device(device):
        model = transformers.Qwen2VLForConditionalGeneration._from_config(config, dtype=dtype)
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():  # the default deviation makes all items nearly the same
        if parameter.ndim > 1:
            scale = 1.0 if "embed_tokens" in name else parameter[0].numel() ** -0.5
            torch.nn.init.normal_(parameter, std=scale)
    return model


def any_size(image_processor: Any) -> Any:
    """Let an image processor take pictures of any size up to the real model's budget; returns it."""
    image_processor.size = type(image_processor.size)(shortest_edge=4 * 28 * 28, longest_edge=1280 * 28 * 28)
    return image_processor


def save_checkpoint(shape: Shape, folder: Path, dtype: torch.dtype = torch.float32, device: str = "cpu") -> None:
    """Make and save a random model of a shape, with the shipped tokenizer and image processor."""
    make_model(shape, dtype, device).save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(CHECKPOINT).save_pretrained(folder)
    image_processor = transformers.AutoImageProcessor.from_pretrained(CHECKPOINT, backend="pil")
    any_size(image_processor).save_pretrained(folder)


# --- workloads ------------------------------------------------------------------------------------------------------

WORDS = "a the circle star moon ring cross square red blue green white black pink small large striped solid left right"


class Drawn:
    """Draws texts and pictures, reproducibly and no text twice."""

    def __init__(self, seed: int = 0) -> None:
        self._random, self._said = np.random.default_rng(seed), set[str]()

    def text(self, least: int, most: int) -> str:
        """Return words that the tokenizer has as one token each."""
        while True:
            count = int(self._random.integers(least, most + 1))
            text = " ".join(self._random.choice(WORDS.split(), count))
            if text not in self._said:
                self._said.add(text)
                return text

    def picture(self, side: int) -> Image.Image:
        coarse = self._random.integers(256, size=(8, 8, 3), dtype=np.uint8)
        return Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)

    def order(self, count: int) -> list[int]:
        return [int(index) for index in self._random.permutation(count)]


def draw_items(name: str, count: int, side: int) -> tuple[list[Item], Role]:
    """Return a workload of items to encode, and their role."""
    drawn = Drawn()
    if name == "pictures":
        return _pictures(drawn, count, side), "query"
    if name == "texts":
        return _texts(drawn, count), "candidate"
    if name == "labels":
        return _labels(drawn, count), "candidate"
    if name == "mix":
        items = [*_pictures(drawn, count // 4, side), *_labels(drawn, count // 4)]
        items += _texts(drawn, count - len(items))
        return [items[index] for index in drawn.order(len(items))], "query"
    raise ValueError(name)


def _pictures(drawn: Drawn, count: int, side: int) -> list[Item]:
    pictures = [drawn.picture(side) for _ in range(-(-count // 2))]
    return [Item.create(drawn.text(5, 20), pictures[index // 2]) for index in range(count)]


def _texts(drawn: Drawn, count: int) -> list[Item]:
    return [Item.create(drawn.text(5, 60)) for _ in range(count)]


def _labels(drawn: Drawn, count: int) -> list[Item]:
    labels = [drawn.text(1, 5) for _ in range(-(-3 * count // 16))]
    return [Item.create(labels[index % len(labels)]) for index in drawn.order(count)]


def draw_pairs(name: str, count: int, side: int, repeats: bool = True) -> list[Pair]:
    """Return a workload of pairs to take a step on."""
    drawn = Drawn()
    if name == "pictures":
        each = 2 if repeats else 1
        pictures = [drawn.picture(side) for _ in range(-(-count // each))]
        queries = [Item.create(drawn.text(5, 20), pictures[row // each]) for row in range(count)]
        positives = [drawn.text(1, 5) for _ in range(-(-count // each))]
    elif name == "texts":
        queries = _texts(drawn, count)
        positives = [drawn.text(5, 60) for _ in range(-(-3 * count // 4) if repeats else count)]
    else:
        raise ValueError(name)
    order = drawn.order(count)
    return [
        Pair(query, Item.create(positives[row % len(positives)]), name, row)
        for query, row in zip(queries, order, strict=True)
    ]


# --- the floor ------------------------------------------------------------------------------------------------------


def floor(shape: Shape, items: Sequence[Item], role: Role, build: InputBuilder) -> tuple[float, float]:
    """Return the operations of embedding the items, none done twice: of the layers, and of the vision tower.

    Each distinct picture goes through the vision tower once; each distinct beginning of an input (a node of the prefix
    tree over the items' tokens) goes through the layers once, and attends to what stands before it.
    """
    pad = build.processor.image_token_id
    nodes: dict[tuple[int, Any], int] = {}
    depths, patches = 0, dict[str, int]()
    for item in {item.key: item for item in items}.values():
        node, visual = 0, 0
        key = "".join(picture.key for picture in item.pictures)
        for depth, token in enumerate(build.token_ids(item, role), 1):
            step: Any = token
            if token == pad:
                visual += 1
                step = (key, visual)
            if (node, step) not in nodes:
                nodes[node, step] = len(nodes) + 1
                depths += depth
            node = nodes[node, step]
        if visual:
            patches[key] = visual * shape.merge**2
    text = 2 * len(nodes) * shape.text_weights + 4 * depths * shape.hidden * shape.layers
    seen = sum(patches.values())
    vision = 2 * seen // shape.merge**2 * shape.vision_weights
    vision += 4 * sum(count**2 for count in patches.values()) * shape.vision_width * shape.vision_depth
    return float(text), float(vision)


def matmul_rate(shape: Shape, device: torch.device, dtype: torch.dtype) -> float:
    """Return the floating-point operations a second in a product of the size of the layers' largest."""
    rows = 512
    a = torch.randn(rows, shape.hidden, device=device, dtype=dtype)
    b = torch.randn(shape.hidden, shape.intermediate, device=device, dtype=dtype)
    seconds = [timed(lambda: [a @ b for _ in range(20)], device)[1] for _ in range(7)]
    return 20 * 2 * rows * b.numel() / statistics.median(seconds[1:])


# --- the clock ------------------------------------------------------------------------------------------------------


def cpu_seconds() -> float:
    """Return the CPU seconds of this process, all threads, and of the processes that it started and that ended."""
    children = getrusage(RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def timed(work: Callable[[], Any], device: torch.device) -> tuple[Any, float]:
    """Return the result of some work and its seconds: CPU seconds on a CPU, those between two events on a GPU."""
    if device.type != "cuda":
        started = cpu_seconds()
        return work(), cpu_seconds() - started
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    begin.record()
    result = work()
    end.record()
    torch.cuda.synchronize(device)
    return result, begin.elapsed_time(end) / 1e3


def alternate(
    schemes: Mapping[str, Callable[[Drawing], Any]], draw: Callable[[], Drawing], rounds: int, device: torch.device
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Return the seconds of each scheme in each round, and what its warm-up returned.

    A round runs all schemes, each round beginning with another one, so that what slows the machine down for a while
    slows all of them.

    Args:
        schemes: The schemes by name.
        draw: Makes the workload, anew for every run and outside of its time, so that no scheme keeps anything on it.
            What a scheme keeps elsewhere from run to run would count as its speed.
        rounds: The number of rounds.
        device: The device that the schemes run on.
    """
    results = {name: work(draw()) for name, work in schemes.items()}
    names, seconds = list(schemes), {name: list[float]() for name in schemes}
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            drawn = draw()
            seconds[name].append(timed(partial(schemes[name], drawn), device)[1])
    return seconds, results


def over(base: Sequence[float], ours: Sequence[float]) -> float:
    """Return the median over rounds of how many times as long the base took."""
    return statistics.median(b / o for b, o in zip(base, ours, strict=True))


def spread(seconds: Sequence[float]) -> float:
    """Return half of the range, over the median."""
    return (max(seconds) - min(seconds)) / 2 / statistics.median(seconds)


# --- the profile ----------------------------------------------------------------------------------------------------

KINDS = {
    "attention": ("attention", "softmax", "flash", "fmha"),
    "matmul": ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "convolution", "mkldnn", "gemm"),
    "norms": ("norm", "aten::rsqrt", "aten::pow", "aten::mean"),
}


def profile(work: Callable[[], Any], floor_operations: float, rate: float, device: torch.device) -> dict[str, float]:
    """Print where a run's time goes, beside the floor; returns milliseconds by kind.

    The profiler tells wall time, so what it says of kinds is taken as shares, of the time that the run took unwatched.
    """
    on_gpu = device.type == "cuda"
    activities = [torch.profiler.ProfilerActivity.CPU]
    if on_gpu:
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    work()
    run = statistics.median(timed(work, device)[1] for _ in range(3)) * 1e3
    with torch.profiler.profile(activities=activities) as recorded:
        started = time.perf_counter()
        work()
        if on_gpu:
            torch.cuda.synchronize(device)
        watched = (time.perf_counter() - started) * 1e3
    spent = {
        event.key: (event.self_device_time_total if on_gpu else event.self_cpu_time_total) / 1e3 * run / watched
        for event in recorded.key_averages()
    }
    kinds = dict.fromkeys((*KINDS, "other operations"), 0.0)
    for name, milliseconds in spent.items():
        kind = next((kind for kind, parts in KINDS.items() if any(part in name for part in parts)), "other operations")
        kinds[kind] += milliseconds
    kinds["outside of operations"] = max(0.0, run - sum(kinds.values()))
    least = floor_operations / rate * 1e3
    table = Table(
        title=f"{floor_operations / 1e9:.2f} GFLOP at the {rate / 1e9:.0f} GFLOP/s of a large product", min_width=70
    )
    for column in ("time", "ms", "of the run"):
        table.add_column(column, justify="left" if column == "time" else "right")
    for kind, milliseconds in kinds.items():
        table.add_row(kind, f"{milliseconds:.0f}", f"{milliseconds / run:.0%}")
    table.add_section()
    table.add_row("the run, not profiled", f"{run:.0f}", "100%")
    table.add_row("the floor", f"{least:.0f}", f"{least / run:.0%}")
    console.print(table)
    longest = sorted(spent, key=lambda name: -spent[name])[:10]
    console.print("longest operations: " + ", ".join(f"{name} {spent[name]:.0f} ms" for name in longest))
    return {**kinds, "run": run, "floor": least}


if __name__ == "__main__":
    for name, shape in SHAPES.items():
        console.print(f"{name}: {proportions(shape)}")
