"""Read rows into items, training pairs and benchmarks: tables, MMEB, SugarCrepe, pictures, and rows to leave out.

It imports `utils`, `outputs`, `types` and `config`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
