"""Check that a model is whole, loads and fits, and measure its speed."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import huggingface_hub as hub
import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open

from gen2embed.cli.checks.budget import Budget, TimeUp
from gen2embed.cli.checks.findings import Finding, announce
from gen2embed.model.adapter import describe_targets
from gen2embed.model.backbone import check_path
from gen2embed.model.embedder import Embedder
from gen2embed.model.pooling import LastToken
from gen2embed.model.pretrained import find_source
from gen2embed.types import Item
from gen2embed.utils.content import is_lfs_pointer
from gen2embed.utils.memory import free_bytes, peak_gib, readable

TIMED = {"texts": 32, "pictures": 4}  # items
SIDES = 640, 480  # pixels of a timed picture
MANY = 10_000  # items whose time is estimated, unless their number is known


def check_files(path: str, adapter: str | None) -> Iterator[Finding]:
    """Check the files of a model and of an adapter, and load nothing. A model that is not downloaded is a warning."""
    source = find_source(path, adapter)
    base = Path(check_path(source.path))
    if not base.is_dir():
        config = hub.try_to_load_from_cache(str(source.path), "config.json", revision=source.revision)
        if not isinstance(config, str):
            yield Finding("warning", f"weights: {source.path} is not downloaded; hf download {source.path}")
            return
        base = Path(check_path(Path(config).parent))
    elements = 0
    for folder in [base, *([source.adapter] if source.adapter else [])]:
        files = sorted(folder.glob("*.safetensors"))
        wrong = [*_missing(folder), *(finding for file in files for finding in _broken(file))]
        yield from wrong
        if not wrong:
            elements += sum(map(_elements, files))
            yield Finding("ok", f"weights: {folder} is whole, {len(files)} of safetensors")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    needed, free = elements * (2 if device.type == "cuda" else 4), free_bytes(device)
    if needed > free:
        state = f"the weights take {readable(needed)} on the {device.type}, of which {readable(free)} are free"
        yield Finding("problem", f"memory: {state}; end other programs, or choose a smaller model")


def _missing(folder: Path) -> Iterator[Finding]:
    for index in folder.glob("*.safetensors.index.json"):
        shards = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        if missing := [shard for shard in shards if not (folder / shard).is_file()]:
            lack = f"{folder} lacks {len(missing)} of {len(shards)} shards: {', '.join(missing[:3])}"
            yield Finding("problem", f"weights: {lack}; download them again")


def _broken(file: Path) -> Iterator[Finding]:
    if is_lfs_pointer(file):
        yield Finding("problem", f"weights: {file} is a pointer of git and no weights; run git lfs pull there")
        return
    try:
        with safe_open(file, "pt"):
            pass
    except SafetensorError as error:
        size = readable(file.stat().st_size)
        yield Finding("problem", f"weights: {file} ({size}) is cut or damaged ({error}); download it again")


def _elements(file: Path) -> int:
    with safe_open(file, "pt") as opened:
        return sum(math.prod(opened.get_slice(name).get_shape()) for name in opened.keys())  # noqa: SIM118


def check_loaded(embedder: Embedder, budget: Budget) -> Iterator[Finding]:
    """Describe the model, and check that different texts, and different pictures, have different vectors."""
    backbone, build = embedder.backbone, embedder.build
    size = f"{backbone.parameters / 1e6:,.1f} M parameters in {embedder.fingerprint['dtype']} on the {backbone.device}"
    chosen = f"prompt of convention {build.prompt.convention}, resolution {build.resolution.policy}"
    chosen += f", pooling {embedder.pooling}" if embedder.pooling != LastToken() else ""
    yield Finding("ok", f"model: {backbone.name} loads: {size}, vectors of {embedder.dim} elements; {chosen}")
    for tower, modules in describe_targets(backbone).items():
        yield Finding("ok", f"adapter: matches its base and changes its output; {tower}: {modules}")
    texts = [Item.create(text) for text in ("a red apple", "a deep blue sea")]
    pictures = [Item.create("", Image.new("RGB", SIDES, colour)) for colour in ("red", "blue")]
    for kind, pair, suspect in (("texts", texts, "tokenizer"), ("pictures", pictures, "image processor")):
        announce(f"embedding two {kind}, at most {budget.left:.0f} seconds")
        try:
            with budget.limited(1 / 2):  # so that something is left for the speed
                first, second = embedder.encode(pair)
        except TimeUp:
            unknown = f"whether it tells {kind} apart is unknown, as two took too long for --seconds={budget.seconds:g}"
            yield Finding("warning", f"model: {unknown}; raise it, or choose a GPU or a smaller model")
            continue
        if torch.equal(first, second):
            yield Finding(
                "problem", f"model: different {kind} have the same vector; download the {suspect}'s files again"
            )


def check_speed(embedder: Embedder, items: Sequence[Item], budget: Budget) -> Iterator[Finding]:
    """Time a few generated items, and estimate the time of `items`; without any, of `MANY`.

    Fewer are timed where the budget is short, and the finding says so.
    """
    rng = np.random.default_rng(0)

    def picture() -> Image.Image:
        return Image.fromarray(rng.integers(256, size=(SIDES[1], SIDES[0], 3), dtype=np.uint8))

    pictured = sum(bool(item.pictures) for item in items)
    counts = {"texts": len(items) - pictured, "pictures": pictured} if items else dict.fromkeys(TIMED, MANY)
    make: dict[str, Callable[[int], Item]] = {
        "texts": lambda number: Item.create(f"what is in picture {number}, and why is it there?"),
        "pictures": lambda number: Item.create(f"picture {number}", picture()),
    }
    wanted = [kind for kind, count in counts.items() if count]
    for place, kind in enumerate(wanted):
        announce(f"timing {kind}, at most {budget.left:.0f} seconds")
        allowed = budget.left
        each, timed = _time_each(embedder, make[kind], TIMED[kind], budget, 1 / (len(wanted) - place))
        size = f" of {SIDES[0]} x {SIDES[1]} pixels" if kind == "pictures" else ""
        cut = f"--seconds={budget.seconds:g} ran out"
        if each is None:
            none = f"not one{size} was embedded in the {allowed:.0f} seconds that were left, as {cut}; raise it"
            yield Finding("warning", f"speed: {kind}: {none}, or choose a GPU or a smaller model")
            continue
        rate = f"{1 / each:,.1f} a second{size}; {counts[kind]:,} take about {_duration(counts[kind] * each)}"
        few = f"; timed on {timed} only, as {cut}: raise it for more" if timed < TIMED[kind] else ""
        yield Finding("warning" if few else "ok", f"speed: {kind}: {rate}{few}")
    yield Finding("ok", f"memory: at most {peak_gib(embedder.backbone.device):.1f} GiB were held so far")


def _time_each(
    embedder: Embedder, make: Callable[[int], Item], most: int, budget: Budget, share: float
) -> tuple[float | None, int]:
    """Return the seconds of an item and on how many it was timed, or None and 0 where none was embedded in time.

    Groups grow, so that something is known when time runs out. The first item is slow, as it loads what later ones
    reuse; it counts only where nothing else is known.
    """
    each, timed = None, 0
    try:
        with budget.limited(share):
            for size in (1, max(1, most // 8), most):
                items = [make(1000 * size + number) for number in range(size)]
                started = time.perf_counter()
                embedder.encode(items)
                each, timed = (time.perf_counter() - started) / size, size
    except TimeUp:
        pass
    return each, timed


def _duration(seconds: float) -> str:
    for unit, length in (("hours", 3600), ("minutes", 60)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} seconds"
