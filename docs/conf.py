"""Settings of the documentation: `make docs`."""

from __future__ import annotations

import re

from sphinx.application import Sphinx

import gen2embed

project = "gen2embed"
author = "the gen2embed authors"
version = release = gen2embed.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
napoleon_numpy_docstring = False
myst_heading_anchors = 3
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
html_theme = "furo"
html_title = "gen2embed"
html_static_path = ["static"]
html_css_files = ["wide.css"]
html_show_copyright = False


def setup(app: Sphinx) -> None:
    app.connect("autodoc-process-docstring", itemise)


def itemise(_app: Sphinx, _what: str, _name: str, _object: object, _options: object, lines: list[str]) -> None:
    """Our docstrings' `name: meaning` lines, which go on indented, as items of a list."""
    out: list[str] = []
    inside = False
    for line in lines:
        named = re.match(r"(\w+(?:, \w+)*): (.*)", line)
        goes_on = inside and not named and line[:1] == " "
        out += [""] if inside != goes_on or named else []
        out.append(f"* **{named[1]}**: {named[2]}" if named else f"  {line.strip()}" if goes_on else line)
        inside = bool(named) or goes_on
    lines[:] = out
