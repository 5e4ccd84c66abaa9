"""Encode many items by a model, in chunks of about equal size, with a store of known vectors.

The model is a protocol here; `gen2embed.model` has the real one. It imports `search`, `data` and the folders below.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
