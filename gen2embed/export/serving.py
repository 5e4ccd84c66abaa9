"""An export that vLLM serves: the merged checkpoint, with both levels of the prompt in a chat template.

The card has the recipe.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from gen2embed.export.kinds import Encode, Merged, Place, refuse_pooling
from gen2embed.export.sentences import SHIPPED
from gen2embed.export.template import chat_template
from gen2embed.model.embedder import Embedder
from gen2embed.utils.errors import UserError

TEMPLATE = "embedding.jinja"


class Vllm:
    """A folder for vLLM, whose checkpoint is checked; the recipe cannot be run without a GPU and vLLM."""

    merges, library = True, "transformers"

    def refuse(self, embedder: Embedder) -> None:
        """Raise `UserError` for another pooling, and for the reference convention, whose positions vLLM lacks."""
        if embedder.build.prompt.convention == "reference":
            raise UserError(
                "vLLM gives image tokens the model's own positions, and prompt.convention=reference has others; export "
                "as merged or sentence-transformers, or train with prompt.convention=native"
            )
        refuse_pooling(embedder, "vLLM")
        chat_template(embedder.build.prompt, embedder.backbone, standalone=True)

    def write(self, embedder: Embedder, base: str, folder: Path) -> None:
        Merged().write(embedder, base, folder)
        template = chat_template(embedder.build.prompt, embedder.backbone, standalone=True)
        (folder / TEMPLATE).write_text(template)
        if embedder.build.resolution.policy != "original":
            shutil.copy(SHIPPED / "resizing.py", folder / "resizing.py")

    def load(self, folder: Path, place: Place) -> Encode:
        return Merged().load(folder, place)
