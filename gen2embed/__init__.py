"""gen2embed: turn a generative multimodal LLM into an embedding model, and prove that it is one."""

__version__ = "0.1.0"

from gen2embed.encoder.embedder import Embedder
from gen2embed.types import Item, UserError

__all__ = ["Embedder", "Item", "UserError", "__version__"]
