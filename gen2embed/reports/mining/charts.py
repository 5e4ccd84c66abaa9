"""The mining report's charts: cluster sizes, coverage, and the similarities of kept and skipped owners."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from gen2embed.reports.svg import Draw

BINS = np.linspace(-1, 1, 101)  # of a cosine
OWN = "own positive"
COLOURS = {"kept": "#3d7fd9", "skipped": "#e8903a", OWN: "#8a8f98"}
TALLEST = 40  # subsets in one chart


def counts(values: np.ndarray) -> np.ndarray:
    """Values in each of `BINS`; rounding may carry a cosine past its ends."""
    return np.histogram(np.clip(values, BINS[0], BINS[-1]), BINS)[0]


def short(count: int) -> str:
    """A count that fits a legend."""
    return f"{count:,}" if count < 100_000 else f"{count / 1000:,.0f}k"


def similarities(groups: Mapping[str, np.ndarray], label: str) -> Draw:
    """Histograms of kept and skipped, as shares, so that groups of different sizes compare; own positives as a band."""

    def draw(axes: Axes) -> None:
        drawn = {name: counts(its) for name, its in groups.items() if len(its)}
        for name, its in drawn.items():
            if name == OWN:
                low, median, high = np.quantile(groups[OWN], (0.1, 0.5, 0.9))
                axes.axvspan(low, high, color=COLOURS[OWN], alpha=0.15, linewidth=0, zorder=0)
                axes.axvline(median, color=COLOURS[OWN], linestyle="--", linewidth=1.2, label="own positive")
            else:
                filled: dict[str, Any] = {"fill": True, "alpha": 0.55} if name == "kept" else {"linewidth": 1.6}
                axes.stairs(its / its.sum(), BINS, color=COLOURS[name], label=f"{name}, {short(its.sum())}", **filled)
        present = np.flatnonzero(sum(drawn.values()))
        axes.set_xlim(BINS[max(present[0] - 1, 0)], BINS[min(present[-1] + 2, len(BINS) - 1)])
        axes.xaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))
        axes.set_xlabel(label)
        axes.set_ylabel("share")
        axes.yaxis.set_major_formatter(PercentFormatter(1))  # with decimals where ticks need them
        axes.yaxis.set_major_locator(MaxNLocator(4))
        above: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (-0.1, 1), "borderaxespad": 0}
        axes.legend(**above, frameon=False, fontsize=8, ncols=3, columnspacing=0.8, handlelength=1.1, handletextpad=0.5)

    return draw


def sizes(values: np.ndarray) -> Draw:
    """How many clusters have how many rows."""

    def draw(axes: Axes) -> None:
        its = np.bincount(values)
        axes.bar(np.arange(len(its)), its, width=0.8, color=COLOURS["kept"])
        axes.set_xlim(0.4, len(its) - 0.4)
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, steps=[1, 2, 4, 5, 8, 10]))
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.set_xlabel("rows in a cluster")
        axes.set_ylabel("clusters")

    return draw


def coverage(shares: Mapping[str, float]) -> Draw:
    """Share of each subset's rows that a cluster holds."""

    def draw(axes: Axes) -> None:
        axes.barh(range(len(shares)), [1] * len(shares), color=COLOURS[OWN], alpha=0.2)
        axes.barh(range(len(shares)), list(shares.values()), color=COLOURS["kept"])
        axes.set_yticks(range(len(shares)), list(shares))
        axes.set_ylim(max(len(shares), 4) - 0.5, -0.5)  # the first on top, and no bar too thick
        axes.set_xlim(0, 1)
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.set_xlabel("rows in a cluster, of all")
        axes.tick_params(axis="y", length=0)

    return draw


def overview(draws: Sequence[Draw], subsets: int, title: str) -> Figure:
    """`mining.png`: the charts of all subsets together, two side by side."""
    lines = -(-len(draws) // 2)
    figure = Figure(figsize=(10, 0.5 + lines * max(3.0, 0.25 * min(subsets, TALLEST))), layout="constrained")
    for axes, draw in zip(figure.subplots(lines, 2, squeeze=False).flat, draws, strict=False):
        draw(axes)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title)
    return figure
