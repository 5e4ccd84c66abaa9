"""Random checkpoints of real model classes, small, saved to disk in Hugging Face format, and the tokenizers of their
families trained on a few sentences."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from conftest import TINY
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedConfig, TokenizersBackend

TEXT = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
}
VIT = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
VIT |= {"image_size": 56, "patch_size": 14}
QWEN_VIT = {"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 64}
MROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}
CORPUS = [
    "a large striped red circle on white, longer than the others",
    "what colour is it? describe the text in one word.",
]


# --- tokenizers -----------------------------------------------------------------------------------------------------


def sentencepiece_like(style: str, control: tuple[str, ...] = (), **options: Any) -> TokenizersBackend:
    """A byte-fallback BPE with a BOS, as Llama's (legacy: a prefix space before each run; metaspace: before the first
    only) and Gemma's (no prefix space; line breaks are added tokens that anybody may write).

    options: of the tokenizer, such as its special tokens. control: added tokens that are not flagged as special.
    """
    specials = ["<pad>", "<s>", "</s>", "<unk>"]
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    learner.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=150, show_progress=False))
    learned = json.loads(learner.to_str())["model"]
    pieces = [*specials, *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *learned["vocab"]]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    merges = [tuple(merge) for merge in learned["merges"]]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if style == "metaspace":
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    else:
        replace = normalizers.Replace(" ", "▁")
        prefix = [normalizers.Prepend("▁")] if style == "legacy" else []
        tokenizer.normalizer = normalizers.Sequence([*prefix, replace])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    breaks = ["\n\n"] if style == "gemma" else []
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in (*breaks, *control)])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    return TokenizersBackend(tokenizer_object=tokenizer, **names, **options)


def qwen_like(*specials: str) -> Any:
    """The byte-level BPE of the shipped checkpoint, with further special tokens."""
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=True) for token in specials], special_tokens=True)
    return tokenizer


# --- families -------------------------------------------------------------------------------------------------------


class Family(NamedTuple):
    """make: a tokenizer to a config. processor: to a processor, where it is more than an image processor."""

    tokenizer: Callable[[], Any]
    template: str | None  # the chat template; None is the tokenizer's own
    config: Callable[[Callable[[str], int], int], PreTrainedConfig]  # (token -> id, size of the vocabulary)
    processor: Callable[[Any, PreTrainedConfig], tuple[Any, dict[str, Any]]]  # image processor, processor_config.json


def _qwen_tokens(token: Callable[[str], int]) -> dict[str, int]:
    names = {"image": "image_pad", "video": "video_pad", "vision_start": "vision_start", "vision_end": "vision_end"}
    return {f"{name}_token_id": token(f"<|{text}|>") for name, text in names.items()}


def _qwen2_vl(token: Callable[[str], int], vocabulary: int) -> PreTrainedConfig:
    return transformers.Qwen2VLConfig(
        text_config={**TEXT, "vocab_size": vocabulary, "rope_parameters": MROPE},
        vision_config={"depth": 2, "embed_dim": 32, "hidden_size": 64, "num_heads": 2, "mlp_ratio": 2},
        **_qwen_tokens(token),
    )


def _qwen2_5_vl(token: Callable[[str], int], vocabulary: int) -> PreTrainedConfig:
    return transformers.Qwen2_5_VLConfig(
        text_config={**TEXT, "vocab_size": vocabulary, "rope_parameters": MROPE},
        vision_config={**QWEN_VIT, "window_size": 56, "fullatt_block_indexes": [1]},
        **_qwen_tokens(token),
    )


def _qwen3_vl(token: Callable[[str], int], vocabulary: int) -> PreTrainedConfig:
    return transformers.Qwen3VLConfig(
        text_config={**TEXT, "head_dim": 16, "vocab_size": vocabulary, "rope_parameters": MROPE},
        vision_config={**QWEN_VIT, "deepstack_visual_indexes": [0], "num_position_embeddings": 16},
        **_qwen_tokens(token),
    )


def _llava_next(token: Callable[[str], int], vocabulary: int) -> PreTrainedConfig:
    return transformers.LlavaNextConfig(
        text_config={"model_type": "mistral", **TEXT, "vocab_size": vocabulary},
        vision_config={"model_type": "clip_vision_model", "projection_dim": 32, **VIT},
        image_token_index=token("<image>"),
        image_grid_pinpoints=[[56, 112], [112, 56], [112, 112]],
    )


def _smolvlm(token: Callable[[str], int], vocabulary: int) -> PreTrainedConfig:
    return transformers.SmolVLMConfig(
        text_config={"model_type": "llama", **TEXT, "vocab_size": vocabulary},
        vision_config={"model_type": "smolvlm_vision", **VIT},
        image_token_id=token("<image>"),
        scale_factor=2,
    )


def _gemma3(token: Callable[[str], int], vocabulary: int) -> PreTrainedConfig:
    layers = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 32, "head_dim": 16}
    return transformers.Gemma3Config(
        text_config={**TEXT, **layers, "vocab_size": vocabulary, "query_pre_attn_scalar": 16},
        vision_config={"model_type": "siglip_vision_model", **VIT},
        mm_tokens_per_image=4,
        image_token_index=token("<image_soft_token>"),
        boi_token_index=token("<start_of_image>"),
        eoi_token_index=token("<end_of_image>"),
    )


def _qwen_processor(patch: int) -> Callable[[Any, PreTrainedConfig], tuple[Any, dict[str, Any]]]:
    def make(tokenizer: Any, config: PreTrainedConfig) -> tuple[Any, dict[str, Any]]:
        size = {"shortest_edge": 4 * patch**2, "longest_edge": 64 * patch**2}
        return transformers.Qwen2VLImageProcessorPil(patch_size=patch, size=size), {}

    return make


def _llava_next_processor(tokenizer: Any, config: PreTrainedConfig) -> tuple[Any, dict[str, Any]]:
    image_processor = transformers.LlavaNextImageProcessorPil(
        size={"shortest_edge": 56},
        crop_size={"height": 56, "width": 56},
        image_grid_pinpoints=config.image_grid_pinpoints,
    )
    settings = {"patch_size": 14, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    return image_processor, settings


def _smolvlm_processor(tokenizer: Any, config: PreTrainedConfig) -> tuple[Any, dict[str, Any]]:
    image_processor = transformers.SmolVLMImageProcessorPil(
        size={"longest_edge": 112}, max_image_size={"longest_edge": 56}
    )
    return image_processor, {"image_seq_len": 4}


def _gemma3_processor(tokenizer: Any, config: PreTrainedConfig) -> tuple[Any, dict[str, Any]]:
    return transformers.Gemma3ImageProcessorPil(size={"height": 56, "width": 56}), {"image_seq_length": 4}


# What the families' chat templates make of a system and a user message.
QWEN3_CHAT = """{% for m in messages %}<|im_start|>{{ m.role }}
{% for c in m.content %}{% if c.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ c.text }}
{%- endif %}{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
LLAVA_CHAT = """{% for m in messages %}
{%- if m.role == 'system' %}{{ '<<SYS>>\\n' + m.content[0].text + '\\n<</SYS>>\\n\\n' }}
{%- else %}[INST] {% for c in m.content if c.type == 'image' %}{{ '<image>\\n' }}{% endfor %}
{%- for c in m.content if c.type == 'text' %}{{ c.text }}{% endfor %} [/INST]{% endif %}{% endfor %}"""
SMOLVLM_CHAT = """<|im_start|>{% for m in messages %}
{{- m.role | capitalize }}{{ ':' if m.content[0].type == 'image' else ': ' }}
{%- for c in m.content %}{{ '<image>' if c.type == 'image' else c.text }}{% endfor %}{{ '<end_of_utterance>\\n' }}
{%- endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"""
GEMMA_CHAT = """{{ bos_token }}
{%- set system = messages[0].content[0].text + '\\n\\n' if messages[0].role == 'system' else '' %}
{%- for m in messages if m.role == 'user' %}{{ '<start_of_turn>user\\n' + (system if loop.first else '') }}
{%- for c in m.content %}{{ '<start_of_image>' if c.type == 'image' else c.text | trim }}{% endfor %}
{{- '<end_of_turn>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"""
SMOLVLM_TOKENS = ["<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>"]
SMOLVLM_TOKENS += [f"<row_{row}_col_{col}>" for row in (1, 2) for col in (1, 2)]
GEMMA_TOKENS = {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}


def _gemma_tokenizer() -> TokenizersBackend:
    turns = ("<start_of_turn>", "<end_of_turn>")
    tokenizer = sentencepiece_like("gemma", extra_special_tokens=GEMMA_TOKENS)
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=True) for token in turns], special_tokens=True)
    return tokenizer


FAMILIES = {
    "qwen2_vl": Family(qwen_like, None, _qwen2_vl, _qwen_processor(14)),
    "qwen2_5_vl": Family(qwen_like, None, _qwen2_5_vl, _qwen_processor(14)),
    "qwen3_vl": Family(qwen_like, QWEN3_CHAT, _qwen3_vl, _qwen_processor(16)),
    "llava_next": Family(
        lambda: sentencepiece_like("legacy", ("<image>",)), LLAVA_CHAT, _llava_next, _llava_next_processor
    ),
    "smolvlm": Family(lambda: qwen_like(*SMOLVLM_TOKENS), SMOLVLM_CHAT, _smolvlm, _smolvlm_processor),
    "gemma3": Family(_gemma_tokenizer, GEMMA_CHAT, _gemma3, _gemma3_processor),
}


def make_checkpoint(name: str, folder: Path) -> None:
    family = FAMILIES[name]
    tokenizer = family.tokenizer()
    tokenizer.chat_template = family.template or tokenizer.chat_template
    config = family.config(tokenizer.convert_tokens_to_ids, len(tokenizer))
    torch.manual_seed(0)
    model = transformers.AutoModelForImageTextToText.from_config(config)
    for parameter in model.parameters():  # the default deviation of 0.02 hides what a picture changes
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.15)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    image_processor, settings = family.processor(tokenizer, config)
    image_processor.save_pretrained(folder)
    if settings:
        (folder / "processor_config.json").write_text(json.dumps(settings))
