"""Score an embedder on benchmarks: metrics, intervals, and tests of differences.

It imports `mining`, `model`, `encoding`, `search`, `data` and the folders below them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
