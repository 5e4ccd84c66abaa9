"""Folders and files that a run or a command writes: it claims them, replaces only its own, and redacts secrets.

It imports `utils`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
