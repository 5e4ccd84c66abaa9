"""gen2embed: turn a generative multimodal LLM into an embedding model, and prove that it is one.

The folders, from the lowest to the highest, as imports go: `utils`, `outputs`, `config`, `data`, `world`, `search`,
`encoding`, `model`, `mining`, `evaluation`, `training`, `reports`, `runs`, `export`, `cli`.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
