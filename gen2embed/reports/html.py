"""What our HTML pages share: the templates' environment, parts of items, and how a page is written.

A page is one file: pictures are in it as thumbnails, and it asks no network. `base.html` has the style of them all.
"""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import jinja2

from gen2embed.data.pictures import load_picture
from gen2embed.outputs.claims import of_run
from gen2embed.outputs.paths import check_file, write_file
from gen2embed.types import ImagePart

WRITER = "report"  # of pages, in the record
PAGE = "report.html"  # of a run


def check_page(path: str | Path) -> Path:
    """Return the path of a page once it is known that it may be written; raises as `outputs.check_file` does."""
    return check_file(path, WRITER, own=of_run(Path(path), PAGE))


def write_page(path: Path, template: str, **values: Any) -> None:
    """Render a template, such as `mining/page.html`, which extends `base.html`, and write the page."""
    page = _environment().get_template(template).render(values)
    # A text may hold half of a surrogate pair, which no file can.
    write_file(path, WRITER, lambda file: file.write(page.encode(errors="replace")), of_run(path, PAGE))


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("gen2embed.reports", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "count": "{:,}".format,
        "cosine": "{:.3f}".format,
        "percent": "{:.0%}".format,
        "points": lambda share: f"{100 * share:.1f}",
        "p": lambda p: "<0.001" if p < 0.001 else f"{p:.3f}",
        "signed": lambda share: f"{100 * share:+.1f}".replace("-", "−") if round(share, 3) else "0.0",
    }
    return environment


def part_values(part: str | ImagePart, length: int, side: int, quality: int = 80) -> dict[str, str]:
    """Return a part of an item as a page shows it: a text of at most `length` characters, or a named thumbnail."""
    if isinstance(part, str):
        return {"text": shortened(part, length)}
    return {"picture": thumbnail(part, side, quality), "name": str(part).rpartition("/")[2]}


def thumbnail(picture: ImagePart, side: int, quality: int = 80) -> str:
    """Return a picture as a data URI.

    Args:
        picture: The picture.
        side: The most pixels of the thumbnail's longer side.
        quality: The quality of WebP, up to 100.
    """
    small = load_picture(picture)
    small.thumbnail((side, side))
    file = io.BytesIO()
    small.save(file, "webp", quality=quality)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"


def shortened(text: str, length: int) -> str:
    """Return a text on one line, cut to a number of characters."""
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"
