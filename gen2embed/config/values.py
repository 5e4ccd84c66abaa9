"""Turn configurations into plain values: resolvers, `~`, and names of files."""

from __future__ import annotations

import hashlib
import typing
from typing import Any

from omegaconf import DictConfig, OmegaConf

from gen2embed.config.presets import PACKAGE
from gen2embed.utils.redaction import expanded

LONGEST_NAME = 200  # bytes of a file name; file systems take 255


def register_resolvers() -> None:
    """Register the `${name:...}` functions that the shipped files call."""
    OmegaConf.register_new_resolver("package_dir", lambda: str(PACKAGE), replace=True)
    OmegaConf.register_new_resolver("from_home", lambda path: expanded(str(path)), replace=True)
    OmegaConf.register_new_resolver("file_name", _file_name, replace=True)


def _file_name(text: str) -> str:
    """Return a text as the name of a file; a long text is cut, and a digest added."""
    name = text.replace("/", "_")
    if len(name.encode()) <= LONGEST_NAME:
        return name
    return f"{name[: LONGEST_NAME // 4]}...{hashlib.blake2b(text.encode(), digest_size=8).hexdigest()}"


def join_key(path: str, key: Any) -> str:
    """Return the dotted key of a key below a path, which may be empty."""
    return f"{path}.{key}" if path else str(key)


def plain(cfg: DictConfig, *, resolve: bool = True) -> dict[str, Any]:
    """Return a configuration as plain values, with references resolved unless `resolve` is false."""
    return typing.cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=resolve, throw_on_missing=resolve))


def from_home(cfg: DictConfig) -> DictConfig:
    """Return a configuration in which texts that begin with `~/` begin with the home folder."""
    values = plain(cfg, resolve=False)
    if (absolute := expanded(values)) == values:
        return cfg
    replaced = OmegaConf.create(absolute)
    OmegaConf.set_struct(replaced, value=True)
    return replaced
