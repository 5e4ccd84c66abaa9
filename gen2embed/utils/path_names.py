"""Which file a misspelt path means."""

from __future__ import annotations

import difflib
import os
import unicodedata
from pathlib import Path


def folded(name: str) -> str:
    """Return a name without its case and its form of Unicode; macOS writes `é` as two characters, others as one."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def entries(folder: Path) -> list[str]:
    """Return the names in a folder, sorted; none of one that cannot be read."""
    try:
        return sorted(os.listdir(folder))  # noqa: PTH208  (no Path for each of them)
    except OSError:
        return []


def similar_file(path: Path) -> Path | None:
    """Return the file that a path which is not there seems to mean; None if there is none alike.

    Each part may differ in case, in the form of Unicode, or by a typing error; `\\` may stand for `/`.
    """
    here = Path()
    for part in Path(str(path).replace("\\", "/")).parts:
        name = part
        if not os.path.lexists(here / part):
            names = {folded(entry): entry for entry in entries(here)}
            if not (close := difflib.get_close_matches(folded(part), names, 1, 0.8)):
                return None
            name = names[close[0]]
        here /= name
    return here if here.is_file() else None
