"""What train.py, mine.py and eval.py share: the entry point, parts from the configuration, console, results, sweeps.

It imports `reports`, `training` and the folders below them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
