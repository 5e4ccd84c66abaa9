"""What every folder may use: errors, files, logging, redaction, fingerprints, worker processes, groups of ranks.

It imports no other folder.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
