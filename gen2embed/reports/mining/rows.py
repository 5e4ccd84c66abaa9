"""The rows that a run was given."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from omegaconf import DictConfig, OmegaConf

from gen2embed.config.schema import make_saved
from gen2embed.config.values import plain
from gen2embed.data.pairs import PairSource
from gen2embed.utils.errors import UserError


def read_data(folder: Path) -> PairSource:
    """The rows that a run in `folder` was given, by its `config.yaml`; raises `UserError` if that says none."""
    file = folder / "config.yaml"
    if not file.is_file():
        raise UserError(f"{file} does not exist; it says where the rows of a run lie, and every run leaves one")
    data = plain(cast(DictConfig, OmegaConf.load(file)), resolve=False).get("data")
    if not isinstance(data, dict) or "_target_" not in data:
        raise UserError(f"{file} names no data: it is not of a run of mine.py or train.py")
    return make_saved(data, "data")
