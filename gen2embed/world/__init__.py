"""The embedded world: scenes of coloured shapes that are drawn from a seed, and tasks on them, for demo and tests.

It imports `data` and the folders below it.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
