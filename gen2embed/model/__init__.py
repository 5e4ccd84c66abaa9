"""One pass of a multimodal LLM: prompt, resolution, processor, backbone, adapter and pooling, to one vector an item.

It imports `encoding`, `search`, `data` and the folders below them.
"""

from typing import TYPE_CHECKING

from gen2embed.utils.lazy import lazy_exports

if TYPE_CHECKING:
    from gen2embed.model.adapter import Full as Full
    from gen2embed.model.adapter import Lora as Lora
    from gen2embed.model.backbone import Backbone as Backbone
    from gen2embed.model.backbone import load_backbone as load_backbone
    from gen2embed.model.embedder import Embedder as Embedder
    from gen2embed.model.inputs import InputBuilder as InputBuilder
    from gen2embed.model.pooling import LastToken as LastToken
    from gen2embed.model.pooling import Pooling as Pooling
    from gen2embed.model.pretrained import Source as Source
    from gen2embed.model.prompts import Piece as Piece
    from gen2embed.model.prompts import Prompt as Prompt
    from gen2embed.model.prompts import render as render
    from gen2embed.model.resolution import Resolution as Resolution
    from gen2embed.model.resolution import resize as resize
    from gen2embed.model.resolution import target_size as target_size
    from gen2embed.model.vision import FeatureCache as FeatureCache
else:
    __getattr__, __dir__, __all__ = lazy_exports(
        __name__,
        {
            "Backbone": "backbone",
            "Embedder": "embedder",
            "FeatureCache": "vision",
            "Full": "adapter",
            "InputBuilder": "inputs",
            "LastToken": "pooling",
            "Lora": "adapter",
            "Piece": "prompts",
            "Pooling": "pooling",
            "Prompt": "prompts",
            "Resolution": "resolution",
            "Source": "pretrained",
            "load_backbone": "backbone",
            "render": "prompts",
            "resize": "resolution",
            "target_size": "resolution",
        },
    )
