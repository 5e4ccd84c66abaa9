"""Encode many items by a model, in chunks of about equal size, with a store of known vectors.

The model is a protocol here; `gen2embed.model` has the real one. It imports `search`, `data` and the folders below.
"""

from typing import TYPE_CHECKING

from gen2embed.utils.lazy import lazy_exports

if TYPE_CHECKING:
    from gen2embed.encoding.batch import Chunk as Chunk
    from gen2embed.encoding.batch import ChunkLimit as ChunkLimit
    from gen2embed.encoding.batch import Prepared as Prepared
    from gen2embed.encoding.compression import Compression as Compression
    from gen2embed.encoding.engine import Encoded as Encoded
    from gen2embed.encoding.engine import Engine as Engine
    from gen2embed.encoding.store import EmbeddingStore as EmbeddingStore
    from gen2embed.encoding.store import MemoryStore as MemoryStore
    from gen2embed.encoding.truncation import TruncationCount as TruncationCount
else:
    __getattr__, __dir__, __all__ = lazy_exports(
        __name__,
        {
            "Chunk": "batch",
            "ChunkLimit": "batch",
            "Compression": "compression",
            "EmbeddingStore": "store",
            "MemoryStore": "store",
            "TruncationCount": "truncation",
            "Encoded": "engine",
            "Engine": "engine",
            "Prepared": "batch",
        },
    )
