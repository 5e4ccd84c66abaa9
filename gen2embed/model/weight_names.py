"""Names of weights, which versions of transformers wrap differently."""

from __future__ import annotations

from collections.abc import Iterable

WRAPPERS = {"model", "language_model"}  # names around the layers that come and go with the version of transformers


def current_names(saved: Iterable[str], wanted: Iterable[str]) -> dict[str, str]:
    """Return for each saved weight its own name, or that of the only weight whose path differs by wrappers alone."""

    def bare(name: str) -> str:
        return ".".join(part for part in name.split(".") if part not in WRAPPERS)

    by_path: dict[str, list[str]] = {}
    for name in wanted:
        by_path.setdefault(bare(name), []).append(name)
    names = {}
    for name in saved:
        matches = by_path.get(bare(name), [])
        names[name] = matches[0] if len(matches) == 1 else name
    return names
