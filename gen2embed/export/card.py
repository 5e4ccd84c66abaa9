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
class Run:
    """What a run left: scores by benchmark, and its manifest."""

    folder: Path
    scores: Mapping[str, Mapping[str, Any]]
    manifest: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path) -> Run:
        """Raises `UserError` for a folder that no run has left its scores in."""
        files = {name: folder / f"{name}.json" for name in ("results", "manifest")}
        missing = [str(file) for file in files.values() if not file.is_file()]
        if missing:
            raise UserError(f"--run={folder} has no {missing[0]}; name a folder that train.py or eval.py has left")
        results, manifest = (json.loads(file.read_text()) for file in files.values())
        if not {"benchmark", "benchmarks"} & set(results):
            raise UserError(f"{files['results']} is not of one run; name a folder that train.py or eval.py has left")
        return cls(folder, results.get("benchmarks") or {results["benchmark"]: results}, manifest)

    def check_model(self, embedder: Embedder) -> None:
        """Raise `UserError` if the run scored another model, or this one under another prompt."""
        backbone, its = embedder.backbone, self.manifest["fingerprint"]
        names = ("model", "adapter", "prompt")
        here = json_values({name: embedder.fingerprint[name] for name in names})
        if backbone.adapter is None and its["adapter"]:  # a fully tuned model, which was scored before it was saved
            here |= {"model": its["model"], "adapter": backbone.identity}
            if not is_local(its["adapter"]):  # as versions before `files:` said it
                here["adapter"] = digest_files(Path(backbone.name).glob("*.safetensors"))
        elif backbone.is_identified_by(its["model"]):
            here["model"] = its["model"]
            if backbone.adapter_folder and its["adapter"] == earlier_adapter_identity(backbone.adapter_folder):
                here["adapter"] = its["adapter"]
        if unlike := differences({name: its[name] for name in names}, here):
            raise UserError(
                f"the scores in {self.folder} are not of this model: {'; '.join(unlike)}; name its own run, or none"
            )

    @property
    def trained(self) -> dict[str, Any] | None:
        """The settings of a training; None for an evaluation alone."""
        config = self.manifest["config"]
        return {name: config[name] for name in TRAINED} if "optim" in config else None


@dataclass(frozen=True)
class Facts:
    """What the card says of a model, besides its run."""

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


def write_card(folder: Path, name: str, facts: Facts, check: Mapping[str, float], run: Run | None) -> None:
    """Leave `README.md`. name: of the folder, in what users copy. check: the least cosines, by what was compared."""
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
