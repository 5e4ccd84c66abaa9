"""One pass of a multimodal LLM: prompt, resolution, processor, backbone, adapter and pooling, to one vector an item.

It imports `encoding`, `search`, `data` and the folders below them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
