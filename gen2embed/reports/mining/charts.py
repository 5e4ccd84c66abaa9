"""The mining report's charts: cluster sizes, coverage, and the similarities of kept and skipped owners."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from gen2embed.reports.mining.figures import OWN
from gen2embed.reports.svg import BLUE, GREY, ORANGE, Draw, count, hide_frame, histogram, mark_shares, put_legend

BINS = np.linspace(-1, 1, 101)  # of a cosine
COLOURS = {"kept": BLUE, "skipped": ORANGE, OWN: GREY}
TALLEST = 40  # subsets in one chart


def similarities(groups: Mapping[str, np.ndarray], label: str) -> Draw:
    """Return a chart of the similarities of kept and skipped owners, with those of own positives as a band."""

    def draw(axes: Axes) -> None:
        for name, cosines in groups.items():
            if name == OWN and len(cosines):
                low, median, high = np.quantile(cosines, (0.1, 0.5, 0.9))
                axes.axvspan(low, high, color=GREY, alpha=0.15, linewidth=0, zorder=0)
                axes.axvline(median, color=GREY, linestyle="--", linewidth=1.2, label=OWN)
            elif len(cosines):
                histogram(axes, cosines, BINS, name, COLOURS[name], filled=name == "kept")
        present = np.flatnonzero(count(np.concatenate(list(groups.values())), BINS))
        axes.set_xlim(BINS[max(present[0] - 1, 0)], BINS[min(present[-1] + 2, len(BINS) - 1)])
        axes.xaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))
        axes.set_xlabel(label)
        axes.set_ylabel("share")
        mark_shares(axes.yaxis, 4)
        put_legend(axes, columns=3, place=(-0.1, 1), spacing=0.8)

    return draw


def sizes(values: np.ndarray) -> Draw:
    """Return a chart of how many clusters have how many rows, from the number of rows of each cluster."""

    def draw(axes: Axes) -> None:
        clusters = np.bincount(values)
        axes.bar(np.arange(len(clusters)), clusters, width=0.8, color=BLUE)
        axes.set_xlim(0.4, len(clusters) - 0.4)
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, steps=[1, 2, 4, 5, 8, 10]))
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.set_xlabel("rows in a cluster")
        axes.set_ylabel("clusters")

    return draw


def coverage(shares: Mapping[str, float]) -> Draw:
    """Return a chart of the share of each subset's rows that some cluster holds."""

    def draw(axes: Axes) -> None:
        axes.barh(range(len(shares)), [1] * len(shares), color=GREY, alpha=0.2)
        axes.barh(range(len(shares)), list(shares.values()), color=BLUE)
        axes.set_yticks(range(len(shares)), list(shares))
        axes.set_ylim(max(len(shares), 4) - 0.5, -0.5)  # the first on top, and no bar too thick
        axes.set_xlim(0, 1)
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.set_xlabel("rows in a cluster, of all")
        axes.tick_params(axis="y", length=0)

    return draw


def overview(draws: Sequence[Draw], subsets: int, title: str) -> Figure:
    """Return `mining.png`: the charts of all subsets together, two side by side."""
    lines = -(-len(draws) // 2)
    figure = Figure(figsize=(10, 0.5 + lines * max(3.0, 0.25 * min(subsets, TALLEST))), layout="constrained")
    for axes, draw in zip(figure.subplots(lines, 2, squeeze=False).flat, draws, strict=False):
        draw(axes)
        hide_frame(axes)
    figure.suptitle(title)
    return figure
