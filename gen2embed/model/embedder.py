"""The embedder: a backbone, its inputs under a prompt, and a pooling; and the public Python API over it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Num, Shaped
from torch import Tensor

from gen2embed.data.items import Input, as_items
from gen2embed.encoding import compression
from gen2embed.encoding.batch import Chunk, Inputs, to_device
from gen2embed.encoding.engine import Engine
from gen2embed.model import vision
from gen2embed.model.chunks import Preparer
from gen2embed.model.effect import check_effect
from gen2embed.model.fingerprint import fingerprint_of
from gen2embed.model.inputs import InputBuilder
from gen2embed.model.packing import attention_inputs
from gen2embed.model.pooling import LastToken, Pooling, SampleTokens, pool
from gen2embed.model.prompts import Prompt
from gen2embed.model.resolution import Resolution
from gen2embed.model.vision import FeatureCache, Features
from gen2embed.types import Item, Policy
from gen2embed.utils.choices import ROLES, Attention, Convention, Dtype, Precision, Role
from gen2embed.utils.errors import UserError

if TYPE_CHECKING:
    from gen2embed.model.backbone import Backbone


@dataclass(frozen=True)
class Embedder:
    """Embed items: `build` makes inputs, the backbone hidden states, and the pooling a unit vector for each item."""

    backbone: Backbone
    build: InputBuilder
    packing: bool = True
    feature_cache: FeatureCache = field(default_factory=lambda: FeatureCache(0), compare=False, repr=False)
    pooling: Pooling = field(default_factory=LastToken)

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        adapter: str | Path | None = None,
        prompt: str | Prompt | None = None,
        convention: Convention | None = None,
        resolution: str | Resolution | None = None,
        dtype: Dtype = "auto",
        device: str = "auto",
        max_length: int = 2048,
        revision: str | None = None,
        trust_remote_code: bool = False,
        attn_implementation: Attention = "sdpa",
        merge_adapter: bool = False,
        packing: bool = True,
        compiled: bool = False,
        picture_cache_gib: float = 1.0,
        adapter_revision: str | None = None,
        pooling: str | Pooling | None = None,
    ) -> Embedder:
        """Load a multimodal LLM as an embedder.

        Prompt, resolution and pooling are what the adapter or the checkpoint carries, else hierarchical, clamp and
        last. Another choice than what it carries is taken, with a warning that says what differs.

        Args:
            path: A hub id, a folder in Hugging Face format, or an adapter's folder, which names its base.
            adapter: A folder or a hub id of an adapter to load onto `path`.
            prompt: A shipped name (hierarchical, system, suffix, none, qwen3_vl_embedding) or a `Prompt`.
            convention: `native` or `reference` in place of the prompt's (see `gen2embed.model.prompts`).
            resolution: A shipped name (a policy's, or qwen3_vl_embedding) or a `Resolution`.
            dtype: The type of the weights; auto is float32 on a CPU and bfloat16 on a GPU.
            device: The device of the model; auto is a GPU if there is one.
            max_length: The most tokens of an input; a longer one loses the end of its own text.
            revision: A commit, branch or tag of `path`. An adapter names that of its base.
            trust_remote_code: Whether code that lies beside the weights may run.
            attn_implementation: sdpa, eager or flash_attention_2, which falls back to sdpa, with a line that says why.
            merge_adapter: Add the adapter's weights to the base's: faster, and equal up to rounding.
            packing: Put many inputs in one row of tokens, where the model allows it: the same vectors, faster.
            compiled: Compile the text layers: a minute at the first inputs, faster after it. Not for training.
            picture_cache_gib: GiB for vision features, which are reused where a picture comes again; 0 keeps none.
            adapter_revision: A commit, branch or tag of `adapter`.
            pooling: A shipped name (last) or a `Pooling` (see `gen2embed.model.pooling`).

        Raises:
            UserError: If it cannot be loaded; the message has the remedy.
        """
        # transformers' models and peft take seconds to import, and only loading and saving need them
        from gen2embed.model.adapter import load, merge  # noqa: PLC0415
        from gen2embed.model.backbone import load_backbone  # noqa: PLC0415
        from gen2embed.model.pretrained import find_source  # noqa: PLC0415

        source = find_source(path, adapter, revision, adapter_revision)
        settings = source.choose(prompt, convention, resolution, pooling)
        resolution = settings.resolution
        backbone = load_backbone(
            source.path, resolution, dtype, device, source.revision, trust_remote_code, attn_implementation, compiled
        )
        if source.adapter is not None:
            backbone = load(backbone, source.adapter)
        build = InputBuilder(backbone.processor, backbone.model_type, settings.prompt, resolution, max_length)
        embedder = cls(backbone, build, packing, FeatureCache(int(picture_cache_gib * 2**30)), settings.pooling)
        if source.adapter is None:
            return embedder
        check_effect(embedder, source.adapter)
        return replace(embedder, backbone=merge(backbone)) if merge_adapter else embedder

    def encode(
        self,
        inputs: Sequence[Input] | Input,
        role: Role = "query",
        batch_tokens: int | None = None,
        truncate_dim: int | None = None,
        precision: Precision = "float32",
    ) -> Num[Tensor, "n c"]:
        """Embed inputs in a role. Equal inputs are embedded once.

        Args:
            inputs: Each a text, a dict with `text`, `image` (a path or a PIL picture) and optionally `instruction`, or
                an `Item`. A single one gives one row.
            role: `query` or `candidate`.
            batch_tokens: Tokens of a forward pass; None leaves it to the device.
            truncate_dim: Keep this many first elements, as a unit vector again; None keeps all.
            precision: float32, int8 (a byte for an element) or binary (a bit; see `gen2embed.encoding.compression`).

        Returns:
            Unit vectors on the CPU, in order: float32 (n, d), int8 (n, d), or uint8 (n, d / 8) for binary.

        Raises:
            UserError: For an input that cannot be embedded, with its index and before any is embedded; and for an
                impossible size or precision.
        """
        if role not in ROLES:
            raise UserError(f"role {role!r} is unknown; choose one of {', '.join(ROLES)}")
        compression.check_size(truncate_dim, precision, self.dim)
        items = as_items(inputs)
        vectors = Engine(batch_tokens).encode(self, items, role).vectors if items else torch.empty(0, self.dim)
        return compression.compress(vectors, truncate_dim, precision)

    @staticmethod
    def similarity(queries: Shaped[Tensor, "n c"], candidates: Shaped[Tensor, "m e"]) -> Float[Tensor, "n m"]:
        """Return the cosines of vectors of any precision; see `gen2embed.encoding.compression.similarity`."""
        return compression.similarity(queries, candidates)

    def save_pretrained(self, folder: str | Path) -> None:
        """Save an adapter, or a checkpoint, that `from_pretrained(folder)` loads, to a new or an empty folder.

        Prompt, resolution and pooling are saved beside it (see `gen2embed.model.card`).
        """
        from gen2embed.model import pretrained  # noqa: PLC0415

        pretrained.save_pretrained(self, Path(folder))

    def push_to_hub(
        self, repo_id: str, private: bool | None = None, revision: str | None = None, token: str | None = None
    ) -> str:
        """Upload what `save_pretrained` saves, and return the address of the commit.

        Args:
            repo_id: The hub's repository; a missing one is created.
            private: Whether a new repository is private; None is the account's default.
            revision: A branch; a missing one is created from main.
            token: The hub's token; None is that of `hf auth login`.

        Raises:
            UserError: If the hub refuses.
        """
        from gen2embed.model import pretrained  # noqa: PLC0415

        return pretrained.push_to_hub(self, repo_id, private, revision, token)

    def embed(self, items: Sequence[Item], role: Role) -> Float[Tensor, "b d"]:
        """Return the unit vectors of one batch, in which all items have pictures or none has; differentiable."""
        return self.embed_inputs(self.build(items, role))

    def embed_inputs(self, inputs: Inputs) -> Float[Tensor, "b d"]:
        """Return the unit vectors of a padded batch, as `build` makes it; differentiable."""
        inputs = to_device(inputs, self.backbone.device, self.backbone.dtype)
        hidden = self.backbone.model(**inputs, use_cache=False).last_hidden_state  # (b, l, d)
        return pool(self.pooling, hidden, SampleTokens.padded(inputs["attention_mask"]))

    def embed_chunk(
        self, chunk: Chunk, pictures: Mapping[str, Inputs], features: Mapping[str, Features] | None = None
    ) -> Float[Tensor, "r d"]:
        """Return the unit vectors of a chunk, a padded batch or a packed row; differentiable.

        Args:
            chunk: The inputs.
            pictures: The inputs of pictures by digest, at least those of the chunk.
            features: The features of pictures by digest, if `vision_features` made them before.
        """
        if "ends" not in chunk.inputs:  # which only a packed row has
            return self.embed_inputs(chunk.inputs)
        without_features = {digest: pictures[digest] for digest in chunk.pictures} if features is None else {}
        features = {**self.vision_features(without_features), **(features or {})}
        inputs = to_device(chunk.inputs, self.backbone.device, self.backbone.dtype)
        hidden = self.backbone.model(
            input_ids=inputs["input_ids"],
            position_ids=inputs["position_ids"],
            mm_encoder_outputs=vision.join_features([features[digest] for digest in chunk.pictures]),
            use_cache=False,
            **attention_inputs(inputs["ends"], chunk.inputs["ends"], self.backbone.attention, self.backbone.dtype),
        ).last_hidden_state  # (1, t, d)
        return pool(self.pooling, hidden, SampleTokens(inputs["last"], inputs["ends"]))

    def vision_features(self, pictures: Mapping[str, Inputs]) -> dict[str, Features]:
        """Return the features of each picture, by digest; a frozen vision tower's are cached."""
        cache = self.feature_cache if self.backbone.frozen_vision else None
        return vision.compute_features(self.backbone.model, pictures, cache)

    @property
    def prepare(self) -> Preparer:
        """A function that makes chunks of items; it needs no weights."""
        return Preparer(self.build, self.packs, self.backbone.takes_mask, self.backbone.dtype)

    @property
    def packs(self) -> bool:
        """Whether many items share a row of tokens."""
        return self.why_padded is None

    @property
    def why_padded(self) -> str | None:
        """Why batches are padded, in words; None if rows are packed."""
        return self.backbone.why_padded(self.build.max_length) if self.packing else "packing is switched off"

    @property
    def dim(self) -> int:
        """Elements of a vector."""
        return self.backbone.full.config.get_text_config().hidden_size

    @property
    def budget(self) -> int:
        """Tokens of a pass, unless a user sets them: 4096 on a GPU, 512 on a CPU."""
        return self.backbone.budget

    def at_resolution(self, policy: Policy) -> Embedder:
        """Return the same embedder with another resolution policy."""
        return replace(self, build=replace(self.build, resolution=replace(self.build.resolution, policy=policy)))

    @property  # not cached: a setting of the loaded model may change in between
    def fingerprint(self) -> dict[str, Any]:
        """Everything that decides an embedding, in plain values (see `gen2embed.model.fingerprint`)."""
        return fingerprint_of(self.backbone, self.build, self.pooling)
