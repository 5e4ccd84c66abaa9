"""Exact and approximate search of nearest vectors, and the neighbours of every query that mining asks for.

It imports `utils`, `outputs`, `types`, `config` and `data`.
"""

from typing import TYPE_CHECKING

from gen2embed.utils.lazy import lazy_exports

if TYPE_CHECKING:
    from gen2embed.search.approximate import Approximate as Approximate
    from gen2embed.search.exact import Exact as Exact
    from gen2embed.search.exact import Search as Search
    from gen2embed.search.exact import nearest as nearest
    from gen2embed.search.neighbours import Neighbours as Neighbours
    from gen2embed.search.neighbours import find_neighbours as find_neighbours
    from gen2embed.search.products import allow_tf32 as allow_tf32
else:
    __getattr__, __dir__, __all__ = lazy_exports(
        __name__,
        {
            "Approximate": "approximate",
            "Exact": "exact",
            "Neighbours": "neighbours",
            "Search": "exact",
            "allow_tf32": "products",
            "find_neighbours": "neighbours",
            "nearest": "exact",
        },
    )
