"""gen2embed: turn a generative multimodal LLM into an embedding model, and prove that it is one.

The folders, from the lowest to the highest, as imports go: `utils`, `outputs`, `config`, `data`, `world`, `search`,
`encoding`, `model`, `mining`, `evaluation`, `training`, `reports`, `runs`, `export`, `cli`.
"""

from typing import TYPE_CHECKING

import lazy_loader

__version__ = "0.1.0"

if TYPE_CHECKING:
    from gen2embed.mining.saha import mine_clusters as mine_clusters
    from gen2embed.model.embedder import Embedder as Embedder
    from gen2embed.model.resolution import resize as resize
    from gen2embed.types import Item as Item
    from gen2embed.utils.errors import UserError as UserError
else:
    __getattr__, __dir__, __all__ = lazy_loader.attach(
        __name__,
        submod_attrs={
            "mining.saha": ["mine_clusters"],
            "model.embedder": ["Embedder"],
            "model.resolution": ["resize"],
            "types": ["Item"],
            "utils.errors": ["UserError"],
        },
    )
