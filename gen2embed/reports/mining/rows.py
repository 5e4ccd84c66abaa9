"""Read the rows that a mining run mined."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from omegaconf import DictConfig, OmegaConf

from gen2embed.config.schema import make_saved
from gen2embed.config.values import plain
from gen2embed.data.pairs import PairSource
from gen2embed.data.quarantine import valid_pairs
from gen2embed.types import Pair
from gen2embed.utils.errors import UserError


def read_rows(folder: Path) -> tuple[Sequence[Pair], Sequence[Path]]:
    """Return the pairs that a run in `folder` mined, and the folders in which their pictures were looked for.

    Raises:
        UserError: For a `config.yaml` that names no data, and for rows that are no longer where it says.
    """
    data = read_data(folder)
    try:
        return data.pairs() if data.on_error == "raise" else valid_pairs(data, folder), data.roots
    except UserError as error:
        where = f"the rows of {folder} are not where its config.yaml says"
        raise UserError(f"{where}: {error}; relative paths start in the folder where mine.py ran") from None


def read_data(folder: Path) -> PairSource:
    """Return the source of a run's rows, by the run's `config.yaml`; raises `UserError` if that names none."""
    file = folder / "config.yaml"
    if not file.is_file():
        raise UserError(f"{file} does not exist; it says where the rows of a run lie, and every run writes one")
    data = plain(cast(DictConfig, OmegaConf.load(file)), resolve=False).get("data")
    if not isinstance(data, dict) or "_target_" not in data:
        raise UserError(f"{file} names no data: it is not of a run of mine.py or train.py")
    return make_saved(data, "data")
