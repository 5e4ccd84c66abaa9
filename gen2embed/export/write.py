"""Write an export: whole and checked, or not at all."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import peft
import torch
from PIL import Image
from torch import Tensor, nn

from gen2embed.data.items import Input
from gen2embed.export.card import Facts, ScoredRun, write_model_card
from gen2embed.export.kinds import Alone, Encode, Kind, Merged, Place
from gen2embed.export.sentences import SentenceTransformers, needs_code
from gen2embed.export.serving import Vllm
from gen2embed.model.adapter import merge
from gen2embed.model.embedder import Embedder
from gen2embed.outputs.paths import check_folder, replace_folder
from gen2embed.utils.choices import ROLES, Convention, ExportDtype, Role
from gen2embed.utils.errors import UserError, did_you_mean, first_line
from gen2embed.utils.files import is_hub_id
from gen2embed.utils.redaction import redacted_text

KINDS: dict[str, Kind] = {
    "merged": Merged(),
    "adapter": Alone(),
    "sentence-transformers": SentenceTransformers(),
    "vllm": Vllm(),
}
LEAST = 0.99999  # cosine to the model's own vector


@dataclass(frozen=True)
class ExportSource:
    """The model to export, and facts for its card.

    Attributes:
        model: A hub id, a checkpoint's folder, or an adapter's, which names its base.
        adapter: An adapter to load onto `model`.
        prompt: A shipped name; None is the prompt that the model carries, else `hierarchical`.
        convention: The convention, in place of the prompt's own; adapters of the reference code need `reference`.
        resolution: A shipped name; None is the resolution that the model carries, else `clamp`.
        device: The device of the check.
        run: The folder of the run that scored the model.
        license: The hub's name of the license.
        base_name: The base's hub id, where the base is loaded from a copy; None is where it is loaded from.
    """

    model: str
    adapter: str | None = None
    prompt: str | None = None
    convention: Convention | None = None
    resolution: str | None = None
    device: str = "auto"
    run: Path | None = None
    license: str = "unknown"
    base_name: str | None = None

    def load(self) -> Embedder:
        """Load the model in single precision, and without a cache of pictures, as the weights are about to change."""
        return Embedder.from_pretrained(
            self.model,
            adapter=self.adapter,
            prompt=self.prompt,
            convention=self.convention,
            resolution=self.resolution,
            dtype="float32",
            device=self.device,
            picture_cache_gib=0,
        )


def export(kind: str, source: ExportSource, output: Path, dtype: ExportDtype = "float32") -> dict[str, float]:
    """Write an export to the folder `output`; return the least cosines of its check.

    1. Load the model, and embed the sample in both roles.
    2. Add the adapter's weights to the base's, round them to `dtype`, and write the files.
    3. Embed the sample with what the kind's own library loads from them.
    4. If every cosine is at least `LEAST`, write the card and put the folder in its place.

    Raises:
        UserError: For an unknown kind, an output that is not empty or lies in an input, an adapter without its base or
            none where one is needed, a model that the kind cannot express, and an export whose vectors are not the
            model's. Nothing is written then.
    """
    if kind not in KINDS:
        raise UserError(f"the kind {kind!r} is unknown{did_you_mean(kind, KINDS)}; choose one of {', '.join(KINDS)}")
    inputs = [Path(path) for path in (source.model, source.adapter) if path is not None]
    output = check_folder(output, inputs)
    exporter, run = KINDS[kind], None if source.run is None else ScoredRun.read(source.run)
    if not exporter.merges and dtype != "float32":
        raise UserError(f"an adapter keeps its own type; leave dtype={dtype} out")
    check: dict[str, float] = {}

    def write(folder: Path) -> None:
        written = _write(kind, source, folder, dtype, run)
        name = f"the {kind} export of {source.model}"
        check["parity"] = _least(written.vectors, _embed_export(exporter, folder, written.place, name), name)
        if written.rounding is not None:
            check["rounding"] = written.rounding
        write_model_card(folder, output.resolve().name, written.facts, check, run)

    replace_folder(output, write, by=None)
    return check


@dataclass(frozen=True)
class _Written:
    """An export whose model is no longer in memory.

    Attributes:
        vectors: The model's own vectors of the sample, with the weights as they were written.
        rounding: The least cosine between vectors before and after rounding; None if weights were not rounded.
        facts: The facts for the card.
        place: How the export is loaded to be compared.
    """

    vectors: Tensor
    rounding: float | None
    facts: Facts
    place: Place


def _write(kind: str, source: ExportSource, folder: Path, dtype: ExportDtype, run: ScoredRun | None) -> _Written:
    """Do steps 1 and 2."""
    exporter, embedder = KINDS[kind], source.load()
    backbone, build = embedder.backbone, embedder.build
    adapted = isinstance(backbone.full, peft.PeftModel)
    if not exporter.merges and not adapted:
        raise UserError(f"{source.model} has no adapter to export; give it as --adapter, or export it as merged")
    exporter.refuse(embedder)
    if run is not None:
        run.check_model(embedder)
    base = source.base_name or (
        backbone.name if is_hub_id(backbone.name) else redacted_text(str(Path(backbone.name).resolve()))
    )
    facts = Facts(
        kind=kind,
        library=exporter.library,
        base=base,
        license=source.license,
        dtype=dtype,
        width=embedder.dim,
        max_length=build.max_length,
        parameters=backbone.parameters,
        prompt=build.prompt.describe(),
        resolution=build.resolution.describe(),
        remote_code=backbone.remote_code,
        code=needs_code(embedder),
    )
    vectors, rounding = embed_sample(embedder.encode), None
    if exporter.merges and adapted:
        embedder = replace(embedder, backbone=merge(backbone))
    _cast(embedder.backbone.full, getattr(torch, dtype))
    exporter.write(embedder, base, folder)
    if dtype != "float32":
        _cast(embedder.backbone.full, torch.float32)
        exact, vectors = vectors, embed_sample(embedder.encode)
        rounding = _cosines(exact, vectors).min().item()
    return _Written(vectors, rounding, facts, Place(backbone.name, str(backbone.device), build.max_length))


def _cast(model: nn.Module, dtype: torch.dtype) -> None:
    """Cast the parameters alone: a buffer of positions must not be rounded."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)


# --- the check ------------------------------------------------------------------------------------------------------


def sample() -> list[Input]:
    """Return texts, pictures and both, whose lengths and sizes show a mistake in prompt, pixels or padding."""
    texts = ["a red circle", "Which animal stands left of the tree?\nAnswer in one word.", "naïve 東京 🙂", "blue"]
    texts.append("A street in the rain, with umbrellas, a tram and two dogs that wait for somebody. " * 8)
    random = np.random.default_rng(0)
    inputs: list[Input] = list(texts)
    for number, (width, height) in enumerate([(84, 84), (200, 61), (61, 200), (640, 480)]):
        coarse = Image.fromarray(random.integers(256, size=(8, 8, 3), dtype=np.uint8))
        picture = coarse.resize((width, height), Image.Resampling.NEAREST)  # whose edges any resampling changes
        inputs += [{"image": picture}, {"image": picture, "text": texts[number]}]
    return inputs


def embed_sample(encode: Encode) -> Tensor:
    """Return the sample's vectors as queries, then as candidates."""
    inputs = sample()
    return torch.cat([encode(inputs, role) for role in ROLES])


def _embed_export(exporter: Kind, folder: Path, place: Place, name: str) -> Tensor:
    """Return the sample's vectors by the kind's own library; an error of the library is a finding of the check."""
    try:
        return embed_sample(exporter.load(folder, place))
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{name} does not embed the sample with {exporter.library}: {type(error).__name__}: {first_line(error)}; "
            "nothing was written"
        ) from error


def _cosines(first: Tensor, second: Tensor) -> Tensor:
    return nn.functional.cosine_similarity(first.double(), second.double())


def _least(ours: Tensor, theirs: Tensor, name: str) -> float:
    """Return the least cosine; raise `UserError` if it is too small."""
    cosines, inputs = _cosines(ours, theirs), sample()
    least = int(cosines.argmin())
    if not cosines[least] >= LEAST:  # nor NaN
        role: Role = ROLES[least // len(inputs)]
        raise UserError(
            f"{name} does not give the model's vectors: cosine {cosines[least]:.6f} for the {role} "
            f"{_describe(inputs[least % len(inputs)])}, and at least {LEAST} is needed; nothing was written; "
            "compare the versions of the libraries with constraints.txt, and report it"
        )
    return cosines[least].item()


def _describe(value: Input) -> str:
    if not isinstance(value, dict):
        return repr(str(value)[:60])
    text = f", {value['text'][:60]!r}" if value.get("text") else ""
    return "picture of {}x{}".format(*value["image"].size) + text
