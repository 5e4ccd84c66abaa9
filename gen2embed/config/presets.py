"""Find the shipped yaml files, and compose them outside of a Hydra program."""

from __future__ import annotations

import json
from collections.abc import Iterable
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate
from omegaconf import DictConfig

from gen2embed.utils.errors import UserError

PACKAGE = Path(__file__).resolve().parent.parent


def conf_dir() -> Path:
    """Return the folder of the shipped files: `conf` in a clone, `gen2embed/conf` in an installed wheel."""
    installed = PACKAGE / "conf"
    return installed if installed.is_dir() else PACKAGE.parent / "conf"


def compose_shipped(config_name: str, overrides: Iterable[str] = (), folders: Iterable[str] = ()) -> DictConfig:
    """Return a shipped configuration, composed; a running Hydra program is left as it is.

    Args:
        config_name: The name of the configuration.
        overrides: As on a command line.
        folders: Where the files of groups may lie, beside the shipped ones.
    """
    search_path = [f"hydra.searchpath={json.dumps(list(folders))}"] if folders else []
    return deepcopy(_composed(config_name, (*overrides, *search_path)))


@cache  # Hydra takes a fifth of a second, and the jobs of a multirun ask for the same
def _composed(config_name: str, overrides: tuple[str, ...]) -> DictConfig:
    running = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            return compose(config_name, overrides=list(overrides))
    finally:
        GlobalHydra.instance().hydra = running


def load_preset(group: str, name: str) -> Any:
    """Return the object of `conf/<group>/<name>.yaml`; raises `UserError` for an unknown name."""
    file = conf_dir() / group / f"{name}.yaml"
    if not file.is_file():
        names = ", ".join(sorted(path.stem for path in file.parent.glob("*.yaml")))
        raise UserError(f"{group} {name!r} is unknown; choose one of {names}")
    return instantiate(compose_shipped(f"{group}/{name}")[group], _convert_="all")
