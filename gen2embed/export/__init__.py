"""Export a model: merged, with sentence-transformers, for vLLM, with a card; and as an encoder for MTEB.

It imports `runs` and the folders below it.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
