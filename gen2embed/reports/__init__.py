"""HTML pages without scripts from elsewhere: of an evaluation and of mined clusters, from files of runs.

It imports `training` and the folders below it.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
