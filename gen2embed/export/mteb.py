"""A model for mteb, so that MIEB's image tasks and MTEB's texts run on it.

    import mteb
    from gen2embed.export.mteb import MtebEncoder

    results = mteb.evaluate(MtebEncoder("outputs/run/adapter"), mteb.get_tasks(["NIGHTSI2IRetrieval"]))

mteb says of an input whether it is a query or a document, which are our roles. Where it does not (classification,
clustering, similarity of equals), all inputs are candidates, which have no level 2. The prompt is the model's own; the
instructions of mteb's tasks are not used.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gen2embed.model.embedder import Embedder
from gen2embed.types import Item
from gen2embed.utils.choices import Role
from gen2embed.utils.errors import UserError
from gen2embed.utils.fingerprints import fingerprint_digest
from gen2embed.utils.log import progress

ROLES: Mapping[str | None, Role] = {"query": "query", "document": "candidate", None: "candidate"}  # by prompt type


class MtebEncoder:
    """mteb's `EncoderProtocol` over an `Embedder`."""

    def __init__(
        self, model_name: str, revision: str | None = None, *, device: str | None = None, **kwargs: Any
    ) -> None:
        """Load a model. The arguments are mteb's; kwargs are those of `Embedder.from_pretrained`."""
        self.embedder = Embedder.from_pretrained(model_name, revision=revision, device=device or "auto", **kwargs)

    def encode(
        self,
        inputs: Collection[Mapping[str, Any]],
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: str | None = None,
        show_progress_bar: bool = True,
        **kwargs: Any,
    ) -> np.ndarray:
        """Return float32 unit vectors, (n, d), of a loader's batches, each of which has `text`, `image` or both.

        Raises:
            UserError: For a task of other modalities.
        """
        role = ROLES[prompt_type]
        parts = []
        with progress(task_metadata.name, len(inputs), shown=show_progress_bar) as advance:
            for batch in inputs:
                parts.append(self.embedder.encode(list(_items(batch, task_metadata.name)), role))
                advance()
        return torch.cat(parts).numpy()

    def similarity(self, embeddings1: Any, embeddings2: Any) -> torch.Tensor:
        """Return the cosines of all pairs, (n, m)."""
        first, second = _rows(embeddings1), _rows(embeddings2)
        return first @ second.T

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> torch.Tensor:
        """Return the cosines of rows at the same place, (n,)."""
        return (_rows(embeddings1) * _rows(embeddings2)).sum(dim=-1)

    @property
    def mteb_model_meta(self) -> Any:
        """Return the name and the facts under which mteb files results.

        The revision is the fingerprint's digest: results of another adapter, prompt or resolution are never taken for
        this model's.

        Raises:
            UserError: If mteb is not installed.
        """
        try:
            from mteb.models.model_meta import ModelMeta, ScoringFunction  # noqa: PLC0415
        except ImportError as error:
            raise UserError("mteb is not installed; run: pip install 'gen2embed[mteb]'") from error
        backbone = self.embedder.backbone
        return ModelMeta.create_empty(
            {
                "name": f"gen2embed/{Path(backbone.name).name}",
                "revision": fingerprint_digest(self.embedder.fingerprint),
                "n_parameters": backbone.parameters,
                "max_tokens": self.embedder.build.max_length,
                "embed_dim": self.embedder.dim,
                "framework": ["PyTorch", "Transformers"],
                "similarity_fn_name": ScoringFunction.COSINE,
                "use_instructions": True,
                "modalities": ["text", "image"],
            }
        )


def _items(batch: Mapping[str, Any], task: str) -> Iterator[Item]:
    columns = [batch[name] for name in ("text", "image") if name in batch]
    if not columns:
        raise UserError(f"the task {task} has {', '.join(batch)} and neither texts nor pictures; choose another task")
    nothing = [None] * len(columns[0])
    for text, image in zip(batch.get("text", nothing), batch.get("image", nothing), strict=True):
        yield Item.create(text or "", image) if text or image is not None else Item(("",))


def _rows(embeddings: Any) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.atleast_2d(torch.as_tensor(embeddings)).float(), dim=-1)
