"""Train an embedder: the step, gradient caching, losses, batches of clusters, checkpoints and resumption.

It imports `evaluation`, `mining`, `model` and the folders below them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
