"""The model card of an export: what it is, where it comes from, how it scored, and how to use it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from gen2embed import __version__
from gen2embed.model.embedder import Embedder
from gen2embed.model.identity import earlier_adapter_identity, is_local
from gen2embed.utils.errors import UserError
from gen2embed.utils.files import digest_files, is_hub_id, write_atomic
from gen2embed.utils.fingerprints import differences, json_values

TRAINED = ("data", "mining", "adapter", "loss", "optim", "batch", "trainer", "seed")  # of a run's settings


@dataclass(frozen=True)
class ScoredRun:
    """The results of a run, for the card.

    Attributes:
        folder: The folder of the run.
        scores: The values of `results.json`, by benchmark.
        manifest: The values of `manifest.json`.
    """

    folder: Path
    scores: Mapping[str, Mapping[str, Any]]
    manifest: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path) -> ScoredRun:
        """Return the run of a folder; raises `UserError` for one without a run's scores."""
        files = {name: folder / f"{name}.json" for name in ("results", "manifest")}
        missing = [str(file) for file in files.values() if not file.is_file()]
        if missing:
            raise UserError(f"--run={folder} has no {missing[0]}; name the output_dir of train.py or eval.py")
        results, manifest = (json.loads(file.read_text()) for file in files.values())
        if not {"benchmark", "benchmarks"} & set(results):
            raise UserError(f"{files['results']} is not of one run; name the output_dir of train.py or eval.py")
        return cls(folder, results.get("benchmarks") or {results["benchmark"]: results}, manifest)

    def check_model(self, embedder: Embedder) -> None:
        """Raise `UserError` if the run scored another model, or this one under another prompt."""
        names = ("model", "adapter", "prompt", "pooling")
        scored = {name: self.manifest["fingerprint"][name] for name in names}
        exported = json_values({name: embedder.fingerprint[name] for name in names})
        backbone = embedder.backbone
        if backbone.adapter is None and scored["adapter"]:  # a fully tuned model, which was scored before it was saved
            exported |= {"model": scored["model"], "adapter": backbone.identity}
            if not is_local(scored["adapter"]):  # as versions before `files:` identified it
                exported["adapter"] = digest_files(Path(backbone.name).glob("*.safetensors"))
        elif backbone.is_identified_by(scored["model"]):
            exported["model"] = scored["model"]
            if backbone.adapter_folder and scored["adapter"] == earlier_adapter_identity(backbone.adapter_folder):
                exported["adapter"] = scored["adapter"]
        if unlike := differences(scored, exported):
            raise UserError(
                f"the scores in {self.folder} are not of this model: {'; '.join(unlike)}; name its own run, or none"
            )

    @property
    def trained(self) -> dict[str, Any] | None:
        """Return the settings of a training; None for an evaluation alone."""
        config = self.manifest["config"]
        return {name: config[name] for name in TRAINED} if "optim" in config else None


@dataclass(frozen=True)
class Facts:
    """Facts of a model that its card names, besides its run."""

    kind: str
    library: str
    base: str
    license: str
    dtype: str
    width: int
    max_length: int
    parameters: int
    prompt: Mapping[str, Any]
    resolution: Mapping[str, Any]
    remote_code: bool  # whether the base's own code was trusted
    code: bool  # whether sentence-transformers must trust the folder's own module

    @property
    def base_on_hub(self) -> bool:
        return is_hub_id(self.base)


def write_model_card(folder: Path, name: str, facts: Facts, check: Mapping[str, float], run: ScoredRun | None) -> None:
    """Write `README.md`.

    Args:
        folder: The folder of the export.
        name: The folder's name in the code that users copy.
        facts: The facts of the model.
        check: The least cosines of the check, by the kind of comparison.
        run: The run that scored the model; None writes no scores.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("gen2embed.export", ""),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"json": _literal, "percent": lambda share: f"{100 * share:.1f}", "count": "{:,}".format}
    card = environment.get_template("card.md.jinja")
    text = card.render(name=name, facts=facts, check=check, run=run, version=__version__)
    write_atomic(folder / "README.md", lambda file: file.write(text.encode()))


def _literal(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)
