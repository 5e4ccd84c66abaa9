"""Compose the yaml files of `conf/` and the command line, and check the result before anything is loaded.

`schema` checks keys and values, `targets` what a `_target_` may name, `renamed` translates saved configurations of
earlier versions. It imports `utils`, `outputs` and `types`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
