"""The shipped yaml files: where they are, and how code that does not go through Hydra reads them."""

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
    """`conf` in a clone, `gen2embed/conf` in an installed wheel."""
    inside = PACKAGE / "conf"
    return inside if inside.is_dir() else PACKAGE.parent / "conf"


def compose_shipped(config_name: str, overrides: Iterable[str] = (), folders: Iterable[str] = ()) -> DictConfig:
    """Compose a shipped config, also inside of a running Hydra program. folders: where else a group's files may lie."""
    beside = [f"hydra.searchpath={json.dumps(list(folders))}"] if folders else []
    return deepcopy(_composed(config_name, (*overrides, *beside)))


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
    """Instantiate `conf/<group>/<name>.yaml`; raises `UserError` that lists the names for an unknown one."""
    file = conf_dir() / group / f"{name}.yaml"
    if not file.is_file():
        names = ", ".join(sorted(path.stem for path in file.parent.glob("*.yaml")))
        raise UserError(f"{group} {name!r} is unknown; choose one of {names}")
    return instantiate(compose_shipped(f"{group}/{name}")[group], _convert_="all")
