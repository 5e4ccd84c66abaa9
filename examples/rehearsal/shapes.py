"""The published sizes of the paper's models, for estimates without their weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import transformers


@dataclass(frozen=True)
class Qwen2VLShape:
    """The sizes of a Qwen2-VL; `vision_*` are those of the vision tower.

    Args:
        rows: The rows of the embedding table.
        tied: Whether the head shares the weights of the embedding table.
        patch: The side of a patch, in pixels.
        merge: The patches on the side of a visual token.
        mrope: The sections of the rotary positions.
        path: The repository on the hub; empty for a shape of our own.
    """

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    rows: int
    tied: bool = True
    vision_width: int = 1280
    vision_depth: int = 32
    vision_heads: int = 16
    vision_ratio: int = 4
    patch: int = 14
    merge: int = 2
    mrope: tuple[int, int, int] = (16, 24, 24)
    path: str = ""


PUBLISHED: Mapping[str, Qwen2VLShape] = {  # from the config.json of each on the hub
    "2b": Qwen2VLShape(1536, 8960, 28, 12, 2, 151_936, path="Qwen/Qwen2-VL-2B-Instruct"),
    "7b": Qwen2VLShape(3584, 18_944, 28, 28, 4, 152_064, tied=False, path="Qwen/Qwen2-VL-7B-Instruct"),
}


def qwen2_vl(
    shape: Qwen2VLShape, tokenizer: Any, *, rows: int | None = None, layers: int | None = None, depth: int | None = None
) -> transformers.Qwen2VLConfig:
    """Return the configuration of a model of that width.

    Args:
        shape: The sizes.
        tokenizer: Has the special tokens.
        rows: The rows of the embedding table; None for as many as the tokenizer has tokens.
        layers: The text layers; None for all.
        depth: The blocks of the vision tower; None for all.
    """
    token = tokenizer.convert_tokens_to_ids
    return transformers.Qwen2VLConfig(
        text_config={
            "vocab_size": rows or len(tokenizer),
            "hidden_size": shape.hidden,
            "intermediate_size": shape.intermediate,
            "num_hidden_layers": layers or shape.layers,
            "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.kv_heads,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": list(shape.mrope)},
            "rms_norm_eps": 1e-6,
            "bos_token_id": None,
            "eos_token_id": token("<|im_end|>"),
            "pad_token_id": token("<|endoftext|>"),
        },
        vision_config={
            "depth": depth or shape.vision_depth,
            "embed_dim": shape.vision_width,
            "hidden_size": shape.hidden,
            "num_heads": shape.vision_heads,
            "mlp_ratio": shape.vision_ratio,
            "spatial_merge_size": shape.merge,
            "patch_size": shape.patch,
        },
        **{
            f"{name}_token_id": token(f"<|{text}|>")
            for name, text in (
                ("image", "image_pad"),
                ("video", "video_pad"),
                ("vision_start", "vision_start"),
                ("vision_end", "vision_end"),
            )
        },
        tie_word_embeddings=shape.tied,
    )
