"""Tables on the console: what a run is about to do, and its results."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gen2embed.data.benchmark import Benchmark
from gen2embed.encoding.engine import Engine
from gen2embed.model.adapter import describe_targets
from gen2embed.model.embedder import Embedder
from gen2embed.model.pooling import LastToken
from gen2embed.training.fit import Fit
from gen2embed.types import Pair
from gen2embed.utils.memory import readable
from gen2embed.utils.redaction import visible


def summary_table(embedder: Embedder, benchmarks: Sequence[Benchmark], engine: Engine, folder: Path) -> Table:
    """Return the table of an evaluation that is about to start."""
    rows = _embedder_rows(embedder)
    for benchmark in benchmarks:
        sides = [[getattr(task, side) for task in benchmark.tasks] for side in ("queries", "candidates")]
        queries, candidates = (sum(map(len, items)) for items in sides)
        sizes = f"{len(benchmark.tasks)} tasks, {queries:,} queries, {candidates:,} candidates"
        resolution = f", at resolution {benchmark.resolution}" if benchmark.resolution else ""
        rows.append(("benchmark", f"{benchmark.name}: {sizes}{resolution}"))
    tokens = engine.batch_tokens or embedder.budget
    rows.append(("engine", f"batches of {tokens:,} tokens, store {engine.store or 'none'}"))
    return _two_columns("evaluation", [*rows, ("output", str(folder))])


def training_table(fit: Fit, precision: str, tf32: bool, steps: int, folder: Path) -> Table:
    """Return the table of what is about to be trained, and how a batch comes about.

    Args:
        fit: The training.
        precision: The precision of the trainer.
        tf32: Whether products are in TensorFloat-32.
        steps: The number of steps of the optimiser.
        folder: The folder of the run.
    """
    embedder, sampler, pairs = fit.module.embedder, fit.data.sampler, fit.data.pairs
    limit, sampled, memory = fit.limit, fit.sampled, fit.memory
    parameters = list(embedder.backbone.full.parameters())
    trained = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    frozen = sum(parameter.numel() for parameter in parameters) - trained
    plan = sampler.plan
    held = len({row for members in plan.members for row in members})
    own = plan.pairs // sampler.count
    explicit = sum(len(pair.negatives) for pair in pairs)
    more = f", and {explicit / len(pairs):.1f} of its own each pair" if explicit else ""
    most = f" and {limit.rows} items" if limit.rows else ""
    chunks = f"about {math.ceil(sampled.chunks * own / sampled.pairs)} of at most {limit.tokens:,} tokens{most}"
    chunks += f"; the largest of {sampled.pairs} pairs has {sampled.tokens:,}"
    parts = ", ".join(f"{name} {readable(size)}" for name, size in memory.parts.items() if size)
    rows = [
        *_embedder_rows(embedder),
        ("trained", f"{trained:,} parameters; {frozen:,} are frozen"),
        *((f"  adapter, {tower}", modules) for tower, modules in describe_targets(embedder.backbone).items()),
        ("data", f"{plan.rows:,} pairs, {held:,} of them in {len(plan.members):,} clusters"),
        *((f"  weight, {name}", f"{weight:.3g}") for name, weight in (plan.weights or {}).items()),
        ("batch", f"{plan.pairs} pairs a step, of {'mixed subsets' if plan.mixed else 'one subset'}"),
        ("  negatives", f"{plan.pairs - 1} a query{more}"),
        ("  ranks", f"{sampler.count}, with {own} pairs each"),
        ("  chunks", chunks),
        ("  loaders", fit.loaders),
        ("  memory", f"about {readable(memory.total)} a rank, beside inputs: {parts}"),
        ("  precision", precision_in_words(embedder, precision, tf32)),
        *((f"  {name.replace('_', ' ')}", why) for name, why in fit.shortcuts.items()),
        ("steps", f"{steps:,}, about {steps * plan.pairs / plan.rows:.1f} epochs"),
        ("output", str(folder)),
    ]
    return _two_columns("training", rows)


def precision_in_words(embedder: Embedder, precision: str, tf32: bool) -> str:
    """Return in what types a step computes and keeps what it trains."""
    types: dict[bool, set[str]] = {False: set(), True: set()}
    for parameter in embedder.backbone.full.parameters():
        types[parameter.requires_grad].add(str(parameter.dtype).removeprefix("torch."))
    frozen, trained = (", ".join(sorted(types[requires_grad])) or "none" for requires_grad in (False, True))
    kept = f"frozen weights {frozen}; trained ones, their gradients and the optimiser's state {trained}"
    return f"{precision}: {kept}" + ("; TF32 on a GPU" if tf32 else "")


def cluster_table(table: pa.Table, pairs: Sequence[Pair]) -> Table:
    """Return a table of the clusters of each subset, and the share of its rows that they cover."""
    out = Table(title="clusters")
    for name in ("subset", "rows", "clusters", "mean size", "covered", "to positives", "to owners"):
        out.add_column(name, justify="left" if name == "subset" else "right")
    for subset in dict.fromkeys(pair.subset for pair in pairs):
        members = table.filter(pc.equal(table["subset"].cast(pa.string()), subset))
        rows = sum(pair.subset == subset for pair in pairs)
        clusters, covered = (pc.count_distinct(members[name]).as_py() for name in ("cluster", "row"))
        owners = members.filter(pc.greater(members["position"], 0))
        means = [pc.mean(owners[name]).as_py() for name in ("similarity", "owner_similarity")]
        out.add_row(
            subset,
            f"{rows:,}",
            f"{clusters:,}",
            f"{members.num_rows / clusters:.1f}" if clusters else "-",
            f"{100 * covered / rows:.0f} %",
            *("-" if mean is None else f"{mean:.3f}" for mean in means),
        )
    return out


def _embedder_rows(embedder: Embedder) -> list[tuple[str, str]]:
    backbone, prompt, resolution = embedder.backbone, embedder.build.prompt, embedder.build.resolution
    budget = [f"{key} {getattr(resolution, key)}" for key in ("min_pixels", "max_pixels") if getattr(resolution, key)]
    size = f"{backbone.parameters / 1e6:,.1f} M parameters, {backbone.dtype}, {backbone.device}"
    suffixes = ((role, kind, text) for role, texts in prompt.suffix.items() for kind, text in texts.items())
    return [
        ("model", f"{backbone.name}, {size}"),
        ("prompt", f"convention {prompt.convention}"),
        *((f"  system, {role}", repr(text)) for role, text in prompt.system.items()),
        *((f"  suffix, {role}, {kind}", repr(text)) for role, kind, text in suffixes),
        ("rows", f"padded: {embedder.why_padded}" if embedder.why_padded else "packed"),
        ("resolution", ", ".join([resolution.policy, *budget, f"backend {resolution.backend}"])),
        *([("pooling", repr(embedder.pooling))] if embedder.pooling != LastToken() else []),
    ]


def _two_columns(title: str, rows: Sequence[tuple[str, str]]) -> Table:
    table = Table(title=title, show_header=False)
    for row in rows:
        table.add_row(*row)
    return table


def score_table(scores: Mapping[str, Any]) -> Table:
    """Return a table of the scores of tasks, groups and the overall average, in percent."""
    table = Table(title=f"{scores['benchmark']}: precision@1 in percent")
    for name in ("task", "queries", "candidates", "score", "95 % interval", "pessimistic", "chance"):
        table.add_column(name, justify="left" if name == "task" else "right")
    for group, average in scores["groups"].items():
        members = {name: task for name, task in scores["tasks"].items() if task["group"] == group}
        for name, task in members.items():
            size = task["candidates"]
            table.add_row(
                name,
                str(task["queries"]),
                str(size) if isinstance(size, int) else f"{size[0]}-{size[1]}",
                *_cells(task),
            )
        if members:
            table.add_row(group, "", "", *_average_cells(average, len(members)), style="bold", end_section=True)
    for name, average in scores["averages"].items():
        table.add_row(name, "", "", *(_cells(average) if average else ["-", "incomplete", "", ""]), style="bold")
    table.add_row("overall", "", "", *_average_cells(scores["overall"], len(scores["tasks"])), style="bold")
    return table


def compression_table(scores: Mapping[str, Any]) -> Table:
    """Return a table of scores by size and precision of the vectors, overall and by group, in percent."""
    entries = scores["compression"]
    table = Table(title=f"{scores['benchmark']}: precision@1 in percent, by size and precision of the vectors")
    for name in ("elements", "precision", "bytes", "score", "pessimistic", *entries[0]["groups"]):
        table.add_column(name, justify="left" if name == "precision" else "right")
    for index, entry in enumerate(entries):
        means = [entry["precision@1"], entry["pessimistic"], *entry["groups"].values()]
        last = index + 1 == len(entries) or entries[index + 1]["dim"] != entry["dim"]
        size = (str(entry["dim"]), entry["precision"], f"{entry['bytes']:,}")
        table.add_row(*size, *(f"{100 * mean:.1f}" for mean in means), end_section=last)
    return table


def _cells(score: Mapping[str, Any]) -> list[str]:
    low, high = score["ci95"]
    interval = f"{100 * low:.1f} - {100 * high:.1f}"
    return [
        f"{100 * score['precision@1']:.1f}",
        interval,
        *(f"{100 * score[key]:.1f}" for key in ("pessimistic", "chance")),
    ]


def _average_cells(average: Mapping[str, Any] | None, present: int) -> list[str]:
    return _cells(average) if average else ["-", f"only {present} tasks", "", ""]


class _Literal(Console):
    """A console that shows texts literally, without markup and control characters."""

    def render_str(self, text: str, **settings: Any) -> Text:
        return super().render_str(visible(text), **{**settings, "markup": False, "emoji": False})


def print_table(table: Table) -> None:
    """Print a table to standard output, 120 characters wide where that is no terminal."""
    console = _Literal()
    (console if console.is_terminal else _Literal(width=120)).print(table)
