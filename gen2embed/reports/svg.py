"""Charts by matplotlib as inline SVG, whose text and axes take the page's colours in a light and in a dark theme."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from html import escape
from typing import Any

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, AXES = "#2b2f36", "#c9ced6"  # stand for the style sheet's colours
SMALL = (3.4, 2.4)  # inches, of one chart among several

Draw = Callable[[Axes], None]


def svg(draw: Draw, name: str, size: tuple[float, float] = SMALL, margins: tuple[float, ...] | None = None) -> Markup:
    """One chart as an `<svg>` that says its name to those who cannot see it.

    name: another one for each chart of a page. size: in inches. margins: left, bottom, right and top edge of the axes
    as shares of the figure; None for a small chart's.
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
        axes.spines[["top", "right"]].set_visible(False)
        file = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    return _inline(file.getvalue(), name)


def _inline(document: str, name: str) -> Markup:
    """The `<svg>` of a document as a part of a page: without what would hold beyond it, and in the page's colours."""
    drawn = document[document.index("<svg") :]
    drawn = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", drawn, flags=re.DOTALL)
    drawn = re.sub(r"<!--.*?-->", "", drawn, flags=re.DOTALL)
    drawn = re.sub(r'<g id="[^"]*"', "<g", drawn)
    width, height = re.findall(r' (?:width|height)="([\d.]+)pt"', drawn)
    head = f'<svg role="img" aria-label="{escape(name)}" viewBox="0 0 {width} {height}" style="max-width: {width}pt">'
    body = drawn[drawn.index(">") + 1 :].replace(INK, "var(--ink)").replace(AXES, "var(--axes)")
    return Markup(head + re.sub(r"\n\s*", "\n", body))
