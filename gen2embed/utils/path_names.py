"""Find the file that a misspelt path means."""

from __future__ import annotations

import difflib
import os
import unicodedata
from pathlib import Path


def folded(name: str) -> str:
    """Return a name without case and form of Unicode; macOS writes `é` as two characters, other systems as one."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def entries(folder: Path) -> list[str]:
    """Return the names in a folder, sorted; none if it cannot be read."""
    try:
        return sorted(os.listdir(folder))  # noqa: PTH208  (no Path for each of them)
    except OSError:
        return []


def similar_file(path: Path) -> Path | None:
    """Return the file that a path which does not exist seems to mean; None if no file has a similar path.

    Each part may differ in case, in the form of Unicode, or by a typing error; `\\` may stand for `/`.
    """
    place = Path()
    for part in Path(str(path).replace("\\", "/")).parts:
        name = part
        if not os.path.lexists(place / part):
            names = {folded(entry): entry for entry in entries(place)}
            if not (close := difflib.get_close_matches(folded(part), names, 1, 0.8)):
                return None
            name = names[close[0]]
        place /= name
    return place if place.is_file() else None
