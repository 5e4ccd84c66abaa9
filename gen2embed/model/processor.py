"""Load a family's own processor, with its tokenizer and its image processor; torchvision is not needed."""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any

from transformers import AutoImageProcessor, AutoTokenizer, PreTrainedConfig
from transformers.image_processing_backends import PilBackend
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.processing_utils import ProcessorMixin

from gen2embed.model.resolution import Resolution
from gen2embed.utils.errors import UserError

LEFT_OUT = "video_processor"  # it would need torchvision


def load_processor(
    path: str, config: PreTrainedConfig, resolution: Resolution, source: dict[str, Any]
) -> ProcessorMixin:
    """Return the processor of the model at `path`, with the resolution's backend and pixel budget.

    Args:
        path: A folder or a hub id.
        config: The model's configuration.
        resolution: The backend and the pixel budget.
        source: The arguments of `from_pretrained` for a hub repository.

    Raises:
        UserError: For a model that takes no pictures, a tokenizer that is not fast, and an impossible resolution.
    """
    if type(config) not in PROCESSOR_MAPPING:
        raise UserError(
            f"{path} is a model of type {config.model_type!r}, which has no processor for pictures and texts"
        )
    base: Any = PROCESSOR_MAPPING[type(config)]
    tokenizer = AutoTokenizer.from_pretrained(path, **source)
    if not tokenizer.is_fast:
        raise UserError(
            f"{path} has no fast tokenizer but a {type(tokenizer).__name__}; choose a model with a tokenizer.json"
        )
    if tokenizer("a")["input_ids"] == tokenizer("b")["input_ids"]:  # without a vocabulary, transformers makes one up
        raise UserError(f"the tokenizer of {path} tells no texts apart: its tokenizer.json is missing or empty; add it")
    tokenizer.padding_side = "right"
    image_processor = _load_image_processor(path, resolution, source)
    settings, _ = base.get_processor_dict(path, **source)
    parameters, parts = set(inspect.signature(base.__init__).parameters), set(base.get_attributes())
    options = {key: settings[key] for key in (parameters - parts) & set(settings)}
    no_video = dict.fromkeys({LEFT_OUT} & parts)
    chat = {"chat_template": tokenizer.chat_template}
    return _without_videos(base)(
        image_processor=image_processor, tokenizer=tokenizer, **no_video, **{**chat, **options}
    )


@cache
def _without_videos(base: Any) -> type[ProcessorMixin]:
    """Return a family's processor class without its video processor; its instances can be pickled."""

    class PictureProcessor(base):
        @classmethod
        def get_attributes(cls) -> list[str]:
            return [name for name in super().get_attributes() if name != LEFT_OUT]

        def __reduce__(self) -> tuple[Any, ...]:
            return _restored, (base, vars(self))

    PictureProcessor.__name__ = base.__name__  # it is saved with the processor
    return PictureProcessor


def _restored(base: Any, state: dict[str, Any]) -> ProcessorMixin:
    processor = object.__new__(_without_videos(base))
    vars(processor).update(state)
    return processor


def _load_image_processor(path: str, resolution: Resolution, source: dict[str, Any]) -> Any:
    image_processor = AutoImageProcessor.from_pretrained(path, backend=resolution.backend, **source)
    if isinstance(image_processor, PilBackend) != (resolution.backend == "pil"):  # transformers falls back by itself
        raise UserError(
            f"resolution.backend={resolution.backend} is not available: {path} gave a "
            f"{type(image_processor).__name__}; install torchvision, or choose the other backend"
        )
    for bound, key in (("min_pixels", "shortest_edge"), ("max_pixels", "longest_edge")):
        if (pixels := getattr(resolution, bound)) is not None:
            # Elsewhere the edges are lengths, and no bounds on an area.
            if bound not in image_processor.valid_kwargs.__annotations__:
                raise UserError(f"resolution.{bound} means nothing to {type(image_processor).__name__}; leave it null")
            image_processor.size = type(image_processor.size)(**{**dict(image_processor.size), key: pixels})
    return image_processor
