"""The embedder: a backbone, its inputs under a prompt, and pooling; and the public Python API over it."""

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
from gen2embed.encoding.batch import Chunk, Inputs, moved
from gen2embed.encoding.engine import Engine
from gen2embed.model import vision
from gen2embed.model.chunks import Preparer
from gen2embed.model.effect import check_effect
from gen2embed.model.fingerprint import fingerprint_of
from gen2embed.model.inputs import InputBuilder
from gen2embed.model.packing import lengths, visible
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
    """Embeds items of text and pictures as unit vectors."""

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

        path: a hub id, or a folder in Hugging Face format, or an adapter's folder, which names its base.
        adapter: a folder or hub id of an adapter to load onto `path`. merge_adapter: add its weights to the base's,
            which is faster, and equal up to rounding.
        prompt: a shipped name (hierarchical, system, suffix, none, qwen3_vl_embedding) or a `Prompt`.
        convention: overrides the prompt's (`native` or `reference`, see `gen2embed.model.prompts`).
        resolution: a shipped name (a policy's, or qwen3_vl_embedding) or a `Resolution`.
        pooling: a shipped name (last) or a `Pooling` (see `gen2embed.model.pooling`).
            None is what the adapter or the checkpoint carries, else hierarchical, native, clamp and last. Another
            choice than what it carries is taken, with a warning that says what differs.
        dtype: auto is float32 on a CPU and bfloat16 on a GPU.
        max_length: in tokens; a longer input loses the end of its own text.
        revision, adapter_revision: commit, branch or tag of `path` and of `adapter`. An adapter names that of its base.
        attn_implementation: flash_attention_2 falls back to sdpa, with a line that says why, where it cannot run.
        packing: put many inputs in one row of tokens, where the model allows it; the same vectors, faster.
        compiled: compile the text layers: a minute at the first inputs, faster after it. Not for training.
        picture_cache_gib: how much of what the vision tower made is kept for when a picture comes again.

        Raises `UserError` for what cannot be loaded, with the remedy.
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
        """Embed inputs in a role.

        inputs: each a text, a dict with `text` and/or `image` (a path or a PIL picture) and optional `instruction`, or
            an `Item`. A single one gives one row.
        batch_tokens: of a forward pass; None leaves it to the device.
        truncate_dim: keep the first elements only, as a unit vector again; None keeps all.
        precision: int8 is a byte an element, binary a bit (see `gen2embed.encoding.compression`).
        Returns unit vectors on the CPU, in order: float32 (n, d), int8 (n, d), or of binary uint8 (n, d / 8). Equal
        inputs are embedded once. Raises `UserError`, with the input's index, for what cannot be embedded, before any
        is, and for a size or a precision that cannot be had.
        """
        if role not in ROLES:
            raise UserError(f"role {role!r} is unknown; choose one of {', '.join(ROLES)}")
        compression.check(truncate_dim, precision, self.dim)
        items = as_items(inputs)
        vectors = Engine(batch_tokens).encode(self, items, role).vectors if items else torch.empty(0, self.dim)
        return compression.compress(vectors, truncate_dim, precision)

    @staticmethod
    def similarity(queries: Shaped[Tensor, "n c"], candidates: Shaped[Tensor, "m e"]) -> Float[Tensor, "n m"]:
        """Cosines of what `encode` returned, in any precision; see `gen2embed.encoding.compression.similarity`."""
        return compression.similarity(queries, candidates)

    def save_pretrained(self, folder: str | Path) -> None:
        """Save what `from_pretrained(folder)` loads again, to a new or an empty folder: an adapter, or a checkpoint.

        Either has its prompt and resolution beside it; see `gen2embed.model.saving`.
        """
        from gen2embed.model import pretrained  # noqa: PLC0415

        pretrained.save_pretrained(self, Path(folder))

    def push_to_hub(
        self, repo_id: str, private: bool | None = None, revision: str | None = None, token: str | None = None
    ) -> str:
        """Upload what `save_pretrained` saves to a repository on the hub, which is made if it is not there.

        private: of a new repository; None is the account's default. token: None is that of `hf auth login`.
        Returns the address of the commit. Raises `UserError` for what the hub refuses.
        """
        from gen2embed.model import pretrained  # noqa: PLC0415

        return pretrained.push_to_hub(self, repo_id, private, revision, token)

    def embed(self, items: Sequence[Item], role: Role) -> Float[Tensor, "b d"]:
        """Unit vectors of one batch, in which all items have pictures or none has; differentiable."""
        return self.embed_inputs(self.build(items, role))

    def embed_inputs(self, inputs: Inputs) -> Float[Tensor, "b d"]:
        """Unit vectors of a batch's inputs, as `build` makes them."""
        inputs = moved(inputs, self.backbone.device, self.backbone.dtype)
        hidden = self.backbone.model(**inputs, use_cache=False).last_hidden_state
        return pool(self.pooling, hidden, SampleTokens.padded(inputs["attention_mask"]))

    def embed_chunk(
        self, chunk: Chunk, pictures: Mapping[str, Inputs], features: Mapping[str, Features] | None = None
    ) -> Float[Tensor, "r d"]:
        """Unit vectors of a chunk's rows; differentiable.

        pictures: by digest, those of the chunk at least. features: what `vision_features` made of them already.
        """
        if "ends" not in chunk.inputs:
            return self.embed_inputs(chunk.inputs)
        its = {digest: pictures[digest] for digest in chunk.pictures} if features is None else {}
        features = {**self.vision_features(its), **(features or {})}
        inputs = moved(chunk.inputs, self.backbone.device, self.backbone.dtype)
        if self.backbone.takes_mask:
            mask = visible(inputs["ends"])
            if self.backbone.attention == "eager":
                mask = torch.zeros_like(mask, dtype=self.backbone.dtype).masked_fill(~mask, -torch.inf)
            told: dict[str, Any] = {"attention_mask": mask}
        else:
            told = lengths(chunk.inputs["ends"], self.backbone.device)
        hidden = self.backbone.model(
            input_ids=inputs["input_ids"],
            position_ids=inputs["position_ids"],
            mm_encoder_outputs=vision.join([features[digest] for digest in chunk.pictures]),
            use_cache=False,
            **told,
        ).last_hidden_state
        return pool(self.pooling, hidden, SampleTokens(inputs["last"], inputs["ends"]))

    def vision_features(self, pictures: Mapping[str, Inputs]) -> dict[str, Features]:
        """What the vision tower makes of each picture, by digest; that of a frozen one is kept for the next time."""
        model = self.backbone.model
        if not self.backbone.frozen_vision:
            return dict(zip(pictures, vision.run(model, list(pictures.values())), strict=True))
        kept = {digest: features for digest in pictures if (features := self.feature_cache.get(digest))}
        missing = [digest for digest in pictures if digest not in kept]
        with torch.no_grad():
            made = dict(zip(missing, vision.run(model, [pictures[digest] for digest in missing]), strict=True))
        for digest, features in made.items():
            self.feature_cache.add(digest, features)
        return {**kept, **made}

    @property
    def prepare(self) -> Preparer:
        """Makes chunks of items; needs no model."""
        return Preparer(self.build, self.packs, self.backbone.takes_mask, self.backbone.dtype)

    @property
    def packs(self) -> bool:
        return self.why_padded is None

    @property
    def why_padded(self) -> str | None:
        """Why rows are padded, in words; None if they are packed."""
        return self.backbone.why_padded(self.build.max_length) if self.packing else "packing is switched off"

    @property
    def dim(self) -> int:
        """Elements of a vector."""
        return self.backbone.full.config.get_text_config().hidden_size

    @property
    def budget(self) -> int:
        """Tokens that the device runs well in one pass."""
        return self.backbone.budget

    def at_resolution(self, policy: Policy) -> Embedder:
        """The same embedder with another resolution policy."""
        return replace(self, build=replace(self.build, resolution=replace(self.build.resolution, policy=policy)))

    @property  # not kept: a setting of the loaded model may be changed in between
    def fingerprint(self) -> dict[str, Any]:
        """Everything that decides an embedding, in plain values."""
        return fingerprint_of(self.backbone, self.build, self.pooling)
