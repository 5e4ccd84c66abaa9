"""The first module of a sentence-transformers model whose pictures or positions the library cannot prepare by itself.

An export carries this file where the model was trained with pictures that are resized before its image processor, or
with one-dimensional positions for image tokens. It needs sentence-transformers, transformers and Pillow alone.
"""

from __future__ import annotations

from typing import Any

from sentence_transformers.base.modules import Transformer
from transformers.image_utils import load_image

from .resizing import resized


class PreparedTransformer(Transformer):
    """A `Transformer` that resizes pictures by a policy.

    Args:
        policy: One of `resizing.POLICIES`.
        flat_positions: Whether image tokens get the positions 0, 1, 2, … of texts, not those of a picture's rows.
    """

    config_keys = [*Transformer.config_keys, "policy", "flat_positions"]  # noqa: RUF012

    def __init__(self, *args: Any, policy: str = "original", flat_positions: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.policy = policy
        self.flat_positions = flat_positions

    def preprocess(self, inputs: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        modality, parsed, _ = self.input_formatter.parse_inputs(inputs)
        if modality != "message":
            _, parsed = self.input_formatter.batch_to_message(modality, parsed)
        conversations = [[self._prepared(message) for message in messages] for messages in parsed["message"]]
        features = super().preprocess(conversations, *args, **kwargs)
        if self.flat_positions:
            features["position_ids"] = (features["attention_mask"].cumsum(-1) - 1).clamp(min=0)
        return features

    def _prepared(self, message: dict[str, Any]) -> dict[str, Any]:
        if isinstance(message["content"], str):
            return message
        content = [
            {**part, "image": resized(load_image(part["image"]), self.policy)} if part["type"] == "image" else part
            for part in message["content"]
        ]
        return {**message, "content": content}
