"""Export a model: merged, with sentence-transformers, for vLLM, with a card; and as an encoder for MTEB.

It imports `runs` and the folders below it.
"""

from typing import TYPE_CHECKING

from gen2embed.utils.lazy import lazy_exports

if TYPE_CHECKING:
    from gen2embed.export.mteb import MtebEncoder as MtebEncoder
    from gen2embed.export.sentences import SentenceTransformers as SentenceTransformers
    from gen2embed.export.serving import Vllm as Vllm
    from gen2embed.export.write import export as export
else:
    __getattr__, __dir__, __all__ = lazy_exports(
        __name__,
        {
            "MtebEncoder": "mteb",
            "SentenceTransformers": "sentences",
            "Vllm": "serving",
            "export": "write",
        },
    )
