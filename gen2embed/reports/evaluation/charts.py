"""The evaluation report's charts: scores, differences, ranks, similarities, and scores of compressed embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from gen2embed.reports.evaluation.results import Result
from gen2embed.reports.evaluation.tables import Row, Table
from gen2embed.reports.svg import AXES, INK, Draw, svg

COLOURS = ("#3d7fd9", "#e8903a", "#3a9a78", "#a66fc9", "#d2577a", "#8a8f98")  # of runs, groups or precisions, in turn
RANKS = 20  # shown at most
BINS = np.linspace(-1, 1, 81)  # of a cosine

Labelled = Sequence[tuple[str, Any]]  # a legend's entries, with what is drawn for each


def colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def by_task(draw: Draw, rows: Sequence[Row], name: str) -> Markup:
    """A chart with a line a task; draw gets axes on which the first task is at 0, and on top."""
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
    """A chart among several, with room for two lines of a legend."""
    return svg(draw, name, margins=(0.21, 0.21, 0.95, 0.83))


def scores(table: Table, names: Sequence[str]) -> Draw:
    """Every task's score by each run, with its 95 % interval, and chance."""

    def draw(axes: Axes) -> None:
        places = np.arange(len(table.tasks))
        chance = [row.scores[0]["chance"] for row in table.tasks if row.scores[0]]
        axes.scatter(chance, places, marker="|", s=60, color=INK, linewidths=1, label="chance")
        for index, name in enumerate(names):
            its = [score for row in table.tasks if (score := row.scores[index])]
            means = np.array([task["precision@1"] for task in its])
            spread = np.abs(np.array([task["ci95"] for task in its]).T - means)
            offset = (index - (len(names) - 1) / 2) * min(0.25, 0.6 / len(names))
            style: dict[str, Any] = {"fmt": "o", "markersize": 4.5, "elinewidth": 1.4, "color": colour(index)}
            label = name if len(names) > 1 else "precision@1"
            axes.errorbar(means, places + offset, xerr=spread, label=label, **style)
        axes.set_xlim(-0.01, 1.01)
        axes.xaxis.set_major_formatter(PercentFormatter(1))
        axes.set_xlabel("precision@1 with its 95 % interval")
        _legend(axes, 4)

    return draw


def differences(table: Table, names: Sequence[str]) -> Draw:
    """Every task's difference of the other runs to the first, with its 95 % interval; filled where significant."""

    def draw(axes: Axes) -> None:
        axes.axvline(0, color=INK, linewidth=0.8)
        for index, name in enumerate(names[1:]):
            offset = (index - (len(names) - 2) / 2) * min(0.25, 0.6 / len(names))
            drawn = colour(index + 1)
            for place, row in enumerate(table.tasks):
                its = row.compared[index]
                mean = its.difference.mean
                ends = [[max(0.0, mean - its.difference.low)], [max(0.0, its.difference.high - mean)]]
                filled = drawn if its.significant else "none"
                style: dict[str, Any] = {"fmt": "o", "markersize": 4.5, "elinewidth": 1.4, "color": drawn}
                axes.errorbar([mean], [place + offset], xerr=ends, markerfacecolor=filled, **style)
            axes.plot([], [], "o", markersize=4.5, color=drawn, label=name)
        axes.xaxis.set_major_formatter(PercentFormatter(1, symbol=""))
        axes.xaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))
        axes.set_xlabel(f"points of precision@1 more than {names[0]}")
        _legend(axes, 4)

    return draw


def ranks(labelled: Mapping[str, np.ndarray]) -> Draw:
    """The share of queries whose right answer is among the first k."""

    def draw(axes: Axes) -> None:
        last = min(RANKS, max(int(its.max()) for its in labelled.values()))
        ks = np.arange(1, max(last, 2) + 1)
        for index, (name, its) in enumerate(labelled.items()):
            shares = (its[:, None] <= ks).mean(axis=0)
            axes.plot(ks, shares, color=colour(index), linewidth=1.6, marker=".", markersize=4, label=name)
        axes.set_ylim(0, 1.03)
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.set_xlabel("k")
        axes.set_ylabel("right answer in the first k")
        _legend(axes)

    return draw


def best_similarities(labelled: Mapping[str, np.ndarray]) -> Draw:
    """How similar the best answer is to its query, where it is right and where it is wrong, as shares."""

    def draw(axes: Axes) -> None:
        every = np.concatenate(list(labelled.values()))
        for index, (name, its) in enumerate(labelled.items()):
            filled: dict[str, Any] = {"fill": True, "alpha": 0.55} if index == 0 else {"linewidth": 1.6}
            shares = np.histogram(its, BINS)[0] / len(its)
            axes.stairs(shares, BINS, color=colour(index), label=f"{name}, {len(its):,}", **filled)
        axes.set_xlim(every.min() - 0.05, every.max() + 0.05)
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.set_xlabel("similarity of the best answer")
        axes.set_ylabel("share")
        _legend(axes)

    return draw


def compression(entries: Sequence[Mapping[str, Any]]) -> Draw:
    """The score over the number of elements kept, for each precision."""

    def draw(axes: Axes) -> None:
        for index, precision in enumerate(dict.fromkeys(entry["precision"] for entry in entries)):
            its = sorted((entry["dim"], entry["precision@1"]) for entry in entries if entry["precision"] == precision)
            axes.plot(
                *zip(*its, strict=True), color=colour(index), linewidth=1.6, marker="o", markersize=4, label=precision
            )
        dims = sorted({entry["dim"] for entry in entries})
        axes.set_xscale("log", base=2)
        axes.set_xticks(dims, map(str, dims))
        axes.minorticks_off()
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.set_xlabel("dimension")
        axes.set_ylabel("precision@1")
        _legend(axes)

    return draw


def _legend(axes: Axes, columns: int = 2) -> None:
    above: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (-0.03, 1.01), "borderaxespad": 0}
    tight: dict[str, Any] = {"columnspacing": 1.2, "handlelength": 1.1, "handletextpad": 0.5, "labelspacing": 0.3}
    axes.legend(**above, **tight, frameon=False, fontsize=8, ncols=columns)


# --- what is drawn --------------------------------------------------------------------------------------------------


def rank_groups(names: Sequence[str], results: Sequence[Result]) -> dict[str, np.ndarray]:
    """Ranks of the right answer, by run, or by group if there is one run; of tasks with more than two candidates."""
    groups: dict[str, list[np.ndarray]] = {}
    for name, result in zip(names, results, strict=True):
        for task, its in result.scores["tasks"].items():
            if np.max(its["candidates"]) > 2:
                groups.setdefault(its["group"] if len(results) == 1 else name, []).append(
                    result.predictions[task]["rank"]
                )
    return {name: np.concatenate(its) for name, its in groups.items()}


def similarity_groups(result: Result) -> dict[str, np.ndarray]:
    """Similarities of the best answers, right ones and wrong ones."""
    right = np.concatenate([its["correct"] for its in result.predictions.values()]).astype(bool)
    best = np.array([top[0] for its in result.predictions.values() for top in its["top_similarities"]])
    groups = {"right": best[right], "wrong": best[~right]}
    return {name: np.clip(its, BINS[0], BINS[-1]) for name, its in groups.items() if len(its)}
