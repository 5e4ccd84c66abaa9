"""gen2embed: turn a generative multimodal LLM into an embedding model, and prove that it is one."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gen2embed.mining.saha import mine_clusters
    from gen2embed.model.embedder import Embedder
    from gen2embed.model.resolution import resize
    from gen2embed.types import Item
    from gen2embed.utils.errors import UserError

__version__ = "0.1.0"

__all__ = ["Embedder", "Item", "UserError", "__version__", "mine_clusters", "resize"]

_MODULES = {
    "Embedder": "model.embedder",
    "Item": "types",
    "UserError": "utils.errors",
    "mine_clusters": "mining.saha",
    "resize": "model.resolution",
}


def __getattr__(name: str) -> Any:
    """Import what the API names when it is asked for (PEP 562): torch alone takes seconds, and help needs none."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
