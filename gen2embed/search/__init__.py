"""Exact and approximate search of nearest vectors, and the neighbours of every query that mining asks for.

It imports `utils`, `outputs`, `types`, `config` and `data`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
