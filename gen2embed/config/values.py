"""Configurations as plain values: resolvers, `~`, and names of files."""

from __future__ import annotations

import hashlib
import typing
from typing import Any

from omegaconf import DictConfig, OmegaConf

from gen2embed.config.presets import PACKAGE
from gen2embed.utils.redaction import expanded

LONGEST_NAME = 200  # bytes of a file's; systems end at 255


def register_resolvers() -> None:
    OmegaConf.register_new_resolver("package_dir", lambda: str(PACKAGE), replace=True)
    OmegaConf.register_new_resolver("from_home", lambda path: expanded(str(path)), replace=True)
    OmegaConf.register_new_resolver("file_name", _file_name, replace=True)


def _file_name(text: str) -> str:
    """A text as the name of a file; a long one by its beginning and a digest."""
    name = text.replace("/", "_")
    if len(name.encode()) <= LONGEST_NAME:
        return name
    return f"{name[: LONGEST_NAME // 4]}...{hashlib.blake2b(text.encode(), digest_size=8).hexdigest()}"


def plain(cfg: DictConfig, *, resolve: bool = True) -> dict[str, Any]:
    """The config as plain values."""
    return typing.cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=resolve, throw_on_missing=resolve))


def from_home(cfg: DictConfig) -> DictConfig:
    """The config in which texts that begin with `~/` begin with the home folder."""
    given = plain(cfg, resolve=False)
    if (whole := expanded(given)) == given:
        return cfg
    made = OmegaConf.create(whole)
    OmegaConf.set_struct(made, value=True)
    return made
