"""Charts by matplotlib: what the charts of both reports share, and a chart as inline SVG.

Text and axes of a chart on a page take the page's colours, in a light and in a dark theme.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from html import escape
from typing import Any

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

INK, AXES = "#2b2f36", "#c9ced6"  # stand for the style sheet's colours
BLUE, ORANGE, GREY = "#3d7fd9", "#e8903a", "#8a8f98"
COLOURS = (BLUE, ORANGE, "#3a9a78", "#a66fc9", "#d2577a", GREY)
SMALL = (3.4, 2.4)  # inches, of one chart among several

Draw = Callable[[Axes], None]


# --- parts of a chart -----------------------------------------------------------------------------------------------


def histogram(axes: Axes, cosines: np.ndarray, bins: np.ndarray, name: str, colour: str, *, filled: bool) -> None:
    """Draw cosines as shares of their number, so that groups of different sizes compare; the legend says the number."""
    style: dict[str, Any] = {"fill": True, "alpha": 0.55} if filled else {"linewidth": 1.6}
    shares = count(cosines, bins) / len(cosines)
    axes.stairs(shares, bins, color=colour, label=f"{name}, {_short(len(cosines))}", **style)


def count(cosines: np.ndarray, bins: np.ndarray) -> np.ndarray:
    """Return how many cosines lie in each bin; rounding may carry one past the ends."""
    return np.histogram(np.clip(cosines, bins[0], bins[-1]), bins)[0]


def _short(number: int) -> str:
    """Return a number that fits a legend."""
    return f"{number:,}" if number < 100_000 else f"{number / 1000:,.0f}k"


def mark_shares(axis: Axis, ticks: int | None = None) -> None:
    """Mark an axis in percent, with decimals where ticks need them; `ticks` is the most intervals."""
    axis.set_major_formatter(PercentFormatter(1))
    if ticks is not None:
        axis.set_major_locator(MaxNLocator(ticks))


def put_legend(axes: Axes, columns: int = 2, place: tuple[float, float] = (-0.03, 1.01), spacing: float = 1.2) -> None:
    """Put the legend above the axes, its lower left corner at `place`, in shares of the axes."""
    above: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": place, "borderaxespad": 0}
    tight: dict[str, Any] = {"columnspacing": spacing, "handlelength": 1.1, "handletextpad": 0.5, "labelspacing": 0.3}
    axes.legend(**above, **tight, frameon=False, fontsize=8, ncols=columns)


def hide_frame(axes: Axes) -> None:
    """Hide the upper and the right edge of the axes."""
    axes.spines[["top", "right"]].set_visible(False)


# --- a chart on a page ----------------------------------------------------------------------------------------------


def svg(draw: Draw, name: str, size: tuple[float, float] = SMALL, margins: tuple[float, ...] | None = None) -> Markup:
    """Return one chart as an `<svg>` that says its name to those who cannot see it.

    Args:
        draw: Draws on the chart's axes.
        name: The name, which no other chart of the page has.
        size: Width and height in inches.
        margins: The left, bottom, right and top edge of the axes in shares of the figure; None fits a small chart.
    """
    inks = ("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor")
    style: Any = dict.fromkeys(inks, INK)
    style |= dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), AXES) | {"font.size": 9}
    style |= {"svg.fonttype": "none", "svg.hashsalt": name, "text.parse_math": False}
    with mpl.rc_context(style):
        figure = Figure(figsize=size)
        figure.subplots_adjust(*(margins or (0.21, 0.25, 0.95, 0.9)))  # a layout engine would draw everything twice
        axes = figure.subplots()
        draw(axes)
        hide_frame(axes)
        file = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    return _inline(file.getvalue(), name)


def _inline(document: str, name: str) -> Markup:
    """Return the `<svg>` of a document without what would hold for the page around it, and in the page's colours."""
    drawn = document[document.index("<svg") :]
    drawn = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", drawn, flags=re.DOTALL)
    drawn = re.sub(r"<!--.*?-->", "", drawn, flags=re.DOTALL)
    drawn = re.sub(r'<g id="[^"]*"', "<g", drawn)
    width, height = re.findall(r' (?:width|height)="([\d.]+)pt"', drawn)
    head = f'<svg role="img" aria-label="{escape(name)}" viewBox="0 0 {width} {height}" style="max-width: {width}pt">'
    body = drawn[drawn.index(">") + 1 :].replace(INK, "var(--ink)").replace(AXES, "var(--axes)")
    return Markup(head + re.sub(r"\n\s*", "\n", body))
