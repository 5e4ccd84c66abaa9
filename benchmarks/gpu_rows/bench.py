"""What the rows have in common: the device, the sizes, the recorder, and models of random weights."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from rivals import ORIGINAL, dora, start
from torch import nn
from yardstick import CHECKPOINT, SHAPES, Shape, any_size, make_model

from gen2embed import Embedder
from gen2embed.config.presets import load_preset
from gen2embed.model.backbone import Backbone
from gen2embed.model.inputs import InputBuilder
from gen2embed.model.processor import load_processor
from gpu_rows.rates import product_rate
from gpu_rows.recorder import Recorder

MAX_LENGTH = 2048  # tokens, as conf/model has it


@dataclass(frozen=True)
class Setting:
    """The sizes of all rows.

    Args:
        shape: The model of the rows that measure time.
        shallow: The model of the rows that compare values.
        side: The side of a picture, in pixels.
        seconds: The length of one measurement.
        products: The sizes of the matrices that are multiplied.
        copied: The bytes that are copied.
        items: The number of items to encode, by work.
        compared: The number of items that row 5 compares, by work.
        samples: The samples of a rival's batch, by work.
        pairs: The pairs of a step.
        many: The pairs of a large step.
        checked: The pairs whose gradient is compared.
        growth: The pairs of two steps whose memory is compared.
        chunk: The samples of a chunk in the published scheme's cached step.
        tokens: The tokens of the chunks that are tried.
        searched: The number of vectors that are searched.
        dim: The elements of such a vector.
        workers: The processes that prepare inputs, outside of what is timed.
        spare: The bytes that a CPU is taken to have; None is what the device has.
    """

    shape: Shape
    shallow: Shape
    side: int
    seconds: float
    products: tuple[int, ...]
    copied: int
    items: dict[str, int]
    compared: dict[str, int]
    samples: dict[str, int]
    pairs: int
    many: int
    checked: int
    growth: tuple[int, int]
    chunk: int
    tokens: tuple[int, ...]
    searched: int
    dim: int
    workers: int
    spare: int | None = None


PICTURES, ONCE, TEXTS, LABELS = "pictures, two questions each", "pictures, one question each", "texts", "labels"


def real(shape: Shape, workers: int) -> Setting:
    """Return the sizes for a card of 80 GB: of the 2B's shape, and a quarter of most for the 7B's."""
    part = 1 if shape.hidden < 2048 else 4
    return Setting(
        shape=shape,
        shallow=replace(shape, layers=2, vision_depth=2),
        side=448,
        seconds=3.0,
        products=(8192, 16_384),
        copied=2**32,
        items={PICTURES: 256 // part, ONCE: 128 // part, TEXTS: 2048 // part, LABELS: 4096 // part},
        compared={PICTURES: 64 // part, ONCE: 32 // part, TEXTS: 512 // part, LABELS: 512 // part},
        samples={PICTURES: 16, ONCE: 16, TEXTS: 64, LABELS: 64},
        pairs=256 // part,
        many=1024 // part,
        checked=16 // part,
        growth=(32 // part, 128 // part),
        chunk=16,
        tokens=(1024, 2048, 4096, 8192, 16_384),
        searched=100_000,
        dim=1536,
        workers=workers,
    )


SMALL = Setting(
    shape=SHAPES["smoke"],
    shallow=SHAPES["smoke"],
    side=56,
    seconds=0.05,
    products=(128, 256),
    copied=2**20,
    items={PICTURES: 8, ONCE: 4, TEXTS: 8, LABELS: 16},
    compared={PICTURES: 4, ONCE: 2, TEXTS: 4, LABELS: 8},
    samples={PICTURES: 2, ONCE: 2, TEXTS: 4, LABELS: 4},
    pairs=8,
    many=16,
    checked=6,
    growth=(4, 12),
    chunk=4,
    tokens=(64, 128),
    searched=500,
    dim=32,
    workers=2,
    spare=2**26,
)


@dataclass
class Bench:
    """What a row needs; `rate` is the operations a second of a large bf16 product, None until it is measured."""

    device: torch.device
    setting: Setting
    recorder: Recorder
    rate: float | None = None

    @property
    def best_rate(self) -> float:
        """Return row 1's rate, measured now if row 1 did not run in this process."""
        if self.rate is None:
            size = self.setting.products[0]
            self.rate = product_rate(self.device, size, torch.bfloat16, self.setting.seconds)
            self.recorder.add(f"row 1's rate, measured again ({size:,} x {size:,})", self.rate / 1e12, "TFLOP/s")
        return self.rate

    def share(self, operations: float, seconds: float) -> float:
        """Return how many percent of row 1's rate so many operations in so many seconds are."""
        return 100 * operations / seconds / self.best_rate

    def on_card(self, goal: float) -> float | None:
        """Return a goal for speed or memory, which means nothing for small shapes on a CPU."""
        return goal if self.device.type == "cuda" else None

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def make_embedder(shape: Shape, dtype: torch.dtype, device: torch.device) -> Embedder:
    """Return an embedder of random weights that are made on the device, with the shipped tokenizer and prompt."""
    model = make_model(shape, dtype, device).requires_grad_(False).eval()
    processor = load_processor(str(CHECKPOINT), model.config, ORIGINAL, {})
    any_size(processor.image_processor)
    backbone = Backbone("random weights", model, model.base_model, processor, model.config.model_type, "weights:random")
    prompt = load_preset("prompt", "hierarchical")
    return Embedder(backbone, InputBuilder(processor, backbone.model_type, prompt, ORIGINAL, MAX_LENGTH))


def adapt(embedder: Embedder, dropout: float) -> Embedder:
    """Return the embedder with the paper's adapter, as after some training, and in training mode."""
    embedder = replace(embedder, backbone=dora(dropout).attach(embedder.backbone))
    start(embedder.backbone.full)
    embedder.backbone.full.train()
    return embedder


def set_dropout(model: nn.Module, dropout: float) -> None:
    """Give the adapters another dropout; none is another module to peft, which then computes less."""
    for module in model.modules():
        if isinstance(layers := getattr(module, "lora_dropout", None), nn.ModuleDict):
            for name in layers:
                layers[name] = nn.Dropout(dropout) if dropout else nn.Identity()
