"""The evaluation report's charts: scores, differences, ranks, similarities, and scores of compressed embeddings."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from gen2embed.reports.evaluation.results import Result
from gen2embed.reports.evaluation.tables import Row, Table
from gen2embed.reports.svg import AXES, COLOURS, INK, Draw, histogram, mark_shares, put_legend, svg

RANKS = 20  # shown at most
BINS = np.linspace(-1, 1, 81)  # of a cosine
DOT: dict[str, Any] = {"fmt": "o", "markersize": 4.5, "elinewidth": 1.4}
LINE: dict[str, Any] = {"linewidth": 1.6, "markersize": 4}


def colour(index: int) -> str:
    """Return the colour of a run, a group or a precision; they come in turn."""
    return COLOURS[index % len(COLOURS)]


def by_task(draw: Draw, rows: Sequence[Row], name: str) -> Markup:
    """Return a chart with a line a task; `draw` gets axes on which the first task is at 0, and on top."""
    longest = max(len(row.name) for row in rows)
    width, height = 5.4, 0.9 + (0.3 if len(rows) <= 20 else 0.22) * len(rows)
    left, bottom = min(0.45, (0.35 + 0.075 * longest) / width), 0.5 / height

    def drawn(axes: Axes) -> None:
        draw(axes)
        axes.set_yticks(range(len(rows)), [row.name for row in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", color=AXES, linewidth=0.5, alpha=0.6)
        axes.set_axisbelow(True)

    return svg(drawn, name, (width, height), (left, bottom, 0.97, 1 - 0.3 / height))


def small(draw: Draw, name: str) -> Markup:
    """Return a chart among several, with room for two lines of a legend."""
    return svg(draw, name, margins=(0.21, 0.21, 0.95, 0.83))


def _offsets(runs: int, names: Sequence[str]) -> list[float]:
    """Return how far below its task's line each of `runs` is drawn."""
    return [(index - (runs - 1) / 2) * min(0.25, 0.6 / len(names)) for index in range(runs)]


def scores(table: Table, names: Sequence[str]) -> Draw:
    """Return every task's score by each run, with its 95 % interval, and chance."""

    def draw(axes: Axes) -> None:
        places = np.arange(len(table.tasks))
        chance = [row.scores[0]["chance"] for row in table.tasks if row.scores[0]]
        axes.scatter(chance, places, marker="|", s=60, color=INK, linewidths=1, label="chance")
        for index, (name, offset) in enumerate(zip(names, _offsets(len(names), names), strict=True)):
            tasks = [score for row in table.tasks if (score := row.scores[index])]
            means = np.array([task["precision@1"] for task in tasks])
            spread = np.abs(np.array([task["ci95"] for task in tasks]).T - means)
            label = name if len(names) > 1 else "precision@1"
            axes.errorbar(means, places + offset, xerr=spread, label=label, color=colour(index), **DOT)
        axes.set_xlim(-0.01, 1.01)
        mark_shares(axes.xaxis)
        axes.set_xlabel("precision@1 with its 95 % interval")
        put_legend(axes, columns=4)

    return draw


def differences(table: Table, names: Sequence[str]) -> Draw:
    """Return every task's difference of the other runs to the first, with its 95 % interval; filled: significant."""

    def draw(axes: Axes) -> None:
        axes.axvline(0, color=INK, linewidth=0.8)
        for index, (name, offset) in enumerate(zip(names[1:], _offsets(len(names) - 1, names), strict=True)):
            ink = colour(index + 1)
            for place, row in enumerate(table.tasks):
                compared = row.compared[index]
                mean = compared.difference.mean
                ends = [[max(0.0, mean - compared.difference.low)], [max(0.0, compared.difference.high - mean)]]
                filled = ink if compared.significant else "none"
                axes.errorbar([mean], [place + offset], xerr=ends, markerfacecolor=filled, color=ink, **DOT)
            axes.plot([], [], "o", markersize=4.5, color=ink, label=name)
        axes.xaxis.set_major_formatter(PercentFormatter(1, symbol=""))
        axes.xaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))
        axes.set_xlabel(f"points of precision@1 more than {names[0]}")
        put_legend(axes, columns=4)

    return draw


def ranks(labelled: Mapping[str, np.ndarray]) -> Draw:
    """Return the share of queries whose right answer is among the first k."""

    def draw(axes: Axes) -> None:
        last = min(RANKS, max(int(places.max()) for places in labelled.values()))
        ks = np.arange(1, max(last, 2) + 1)
        for index, (name, places) in enumerate(labelled.items()):
            shares = (places[:, None] <= ks).mean(axis=0)
            axes.plot(ks, shares, color=colour(index), marker=".", label=name, **LINE)
        axes.set_ylim(0, 1.03)
        mark_shares(axes.yaxis)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.set_xlabel("k")
        axes.set_ylabel("right answer in the first k")
        put_legend(axes)

    return draw


def best_similarities(labelled: Mapping[str, np.ndarray]) -> Draw:
    """Return how similar the best answer is to its query, where it is right and where it is wrong."""

    def draw(axes: Axes) -> None:
        for index, (name, cosines) in enumerate(labelled.items()):
            histogram(axes, cosines, BINS, name, colour(index), filled=index == 0)
        cosines = np.concatenate(list(labelled.values()))
        axes.set_xlim(cosines.min() - 0.05, cosines.max() + 0.05)
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        mark_shares(axes.yaxis, 4)
        axes.set_xlabel("similarity of the best answer")
        axes.set_ylabel("share")
        put_legend(axes)

    return draw


def compression(entries: Sequence[Mapping[str, Any]]) -> Draw:
    """Return the score over the number of elements kept, for each precision."""

    def draw(axes: Axes) -> None:
        for index, precision in enumerate(dict.fromkeys(entry["precision"] for entry in entries)):
            points = sorted(
                (entry["dim"], entry["precision@1"]) for entry in entries if entry["precision"] == precision
            )
            axes.plot(*zip(*points, strict=True), color=colour(index), marker="o", label=precision, **LINE)
        dims = sorted({entry["dim"] for entry in entries})
        axes.set_xscale("log", base=2)
        axes.set_xticks(dims, map(str, dims))
        axes.minorticks_off()
        mark_shares(axes.yaxis, 4)
        axes.set_xlabel("dimension")
        axes.set_ylabel("precision@1")
        put_legend(axes)

    return draw


# --- what is drawn --------------------------------------------------------------------------------------------------


def rank_groups(names: Sequence[str], results: Sequence[Result]) -> dict[str, np.ndarray]:
    """Return ranks of the right answer in tasks with more than two candidates: by run, of a single run by group."""
    groups: dict[str, list[np.ndarray]] = defaultdict(list)
    for name, result in zip(names, results, strict=True):
        for task, scores in result.scores["tasks"].items():
            if np.max(scores["candidates"]) > 2:
                groups[scores["group"] if len(results) == 1 else name].append(result.predictions[task]["rank"])
    return {name: np.concatenate(parts) for name, parts in groups.items()}


def similarity_groups(result: Result) -> dict[str, np.ndarray]:
    """Return the similarities of the best answers, right ones and wrong ones."""
    predictions = result.predictions.values()
    right = np.concatenate([columns["correct"] for columns in predictions]).astype(bool)
    best = np.array([similarities[0] for columns in predictions for similarities in columns["top_similarities"]])
    groups = {"right": best[right], "wrong": best[~right]}
    return {name: np.clip(cosines, BINS[0], BINS[-1]) for name, cosines in groups.items() if len(cosines)}
