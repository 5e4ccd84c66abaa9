"""Re-export names of a package's modules that are imported when they are asked for (PEP 562)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy_exports(
    package: str, modules: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Return `__getattr__`, `__dir__` and `__all__` of a package.

    Importing a package would otherwise import all of its modules, and torch alone takes seconds.

    Args:
        package: `__name__` of the package.
        modules: The module of every exported name, relative to the package. No name may be its module's own: the import
            of a module sets it as an attribute of its package, where it would hide the export.
    """
    namespace = sys.modules[package].__dict__

    def get_attribute(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = namespace[name] = getattr(import_module(f"{package}.{modules[name]}"), name)
        return value

    def list_names() -> list[str]:
        return sorted({*namespace, *modules})

    return get_attribute, list_names, list(modules)
