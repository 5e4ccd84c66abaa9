"""Mine clusters of training pairs: SaHa, its paper's form, top-k, B3 and random, and the filters that they share.

It imports `model`, `encoding`, `search`, `data` and the folders below them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
