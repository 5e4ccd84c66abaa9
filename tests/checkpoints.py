"""Random checkpoints of real model classes, small, saved to disk in Hugging Face format."""

from pathlib import Path
from typing import Any

import torch
import transformers
from conftest import TINY
from transformers import AutoTokenizer, PreTrainedConfig

TEXT = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
}


def _qwen2_5_vl(tokens: dict[str, int], vocabulary: int) -> PreTrainedConfig:
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 64}
    return transformers.Qwen2_5_VLConfig(
        text_config={**TEXT, "vocab_size": vocabulary, "rope_parameters": rope},
        vision_config={**vision, "window_size": 56, "fullatt_block_indexes": [1]},
        **tokens,
    )


def _llava_next(tokens: dict[str, int], vocabulary: int) -> PreTrainedConfig:
    size = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = {"model_type": "clip_vision_model", "image_size": 56, "patch_size": 14, "projection_dim": 32, **size}
    return transformers.LlavaNextConfig(
        text_config={"model_type": "mistral", **TEXT, "vocab_size": vocabulary},
        vision_config=vision,
        image_token_index=tokens["image_token_id"],
        image_grid_pinpoints=[[56, 112], [112, 56], [112, 112]],
    )


FAMILIES = {"qwen2_5_vl": _qwen2_5_vl, "llava_next": _llava_next}


def make_checkpoint(family: str, folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    specials = {"image": "image_pad", "video": "video_pad", "vision_start": "vision_start", "vision_end": "vision_end"}
    tokens = {f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<|{text}|>") for name, text in specials.items()}
    if family == "llava_next":
        tokenizer.add_tokens(["<image>"], special_tokens=True)
        tokens["image_token_id"] = tokenizer.convert_tokens_to_ids("<image>")
        slot = "<|vision_start|><|image_pad|><|vision_end|>"
        tokenizer.chat_template = tokenizer.chat_template.replace(slot, "<image>")
    config = FAMILIES[family](tokens, len(tokenizer))
    torch.manual_seed(0)
    model = transformers.AutoModelForImageTextToText.from_config(config)
    for parameter in model.parameters():  # the default deviation of 0.02 hides what a picture changes
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.15)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if family == "llava_next":
        _llava_next_processor(tokenizer, config).save_pretrained(folder)
    else:
        (folder / "preprocessor_config.json").write_bytes((TINY / "preprocessor_config.json").read_bytes())


def _llava_next_processor(tokenizer: Any, config: Any) -> Any:
    image_processor = transformers.LlavaNextImageProcessorPil(
        size={"shortest_edge": 56},
        crop_size={"height": 56, "width": 56},
        image_grid_pinpoints=config.image_grid_pinpoints,
    )
    return transformers.LlavaNextProcessor(
        image_processor,
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=tokenizer.chat_template,
    )
