"""Explain errors of the configuration that the user can mend."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.errors import HydraException, MissingConfigException
from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException

from gen2embed.config.presets import compose_shipped, conf_dir
from gen2embed.config.quoting import explain_setting
from gen2embed.config.renamed import KEYS
from gen2embed.config.values import plain
from gen2embed.utils.content import shown
from gen2embed.utils.errors import UserError, did_you_mean
from gen2embed.utils.files import refusal

SPECIAL_KEYS = {"_target_", "_partial_", "_convert_", "_recursive_", "_args_"}


def explain(error: Exception, config_name: str, overrides: Iterable[str]) -> str | None:
    """Return one clear message for an error that the user can mend; None for any other.

    Args:
        error: What Hydra, OmegaConf or this package raised.
        config_name: The name of the configuration, such as `train`.
        overrides: The settings of the command line.
    """
    if reason := next(filter(None, map(_reason, _chain(error))), None):
        return reason
    if refused := re.search(r"Could not override '([^']+)'", str(error)):
        key, overrides = refused[1], list(overrides)
        siblings = _siblings(key, default_config(config_name, overrides, folders := _config_dirs(overrides)))
        own = folders and "_target_" in siblings  # a file of one's own need not name every key of its class
        add = f"; if its class takes it, write +{key}=..." if own else ""
        return unknown_key(key, siblings) + add
    if absent := next((cause for cause in _chain(error) if isinstance(cause, InterpolationKeyError)), None):
        return _no_such_setting(str(absent).partition("\n")[0], overrides)
    if isinstance(error, hydra.errors.InstantiationException):
        return str(error.__cause__ or error)
    if isinstance(error, HydraException | OmegaConfBaseException):
        texts = (" ".join(str(cause).split()) for cause in _chain(error))
        return next(filter(None, texts), type(error).__name__)
    return next(filter(None, map(_system_reason, _chain(error))), None)


def _config_dirs(arguments: Sequence[str]) -> list[str]:
    """Return the folders that --config-dir adds on a command line, whose configuration Hydra did not compose."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config-dir", "-cd", action="append", default=[])
    return [str(Path(folder).absolute()) for folder in parser.parse_known_args(arguments)[0].config_dir]


def _no_such_setting(missing: str, overrides: Iterable[str]) -> str:
    """Return the message for a `${...}` that names no setting; `missing` is the message of OmegaConf."""
    quoted = re.search(r"'(.*)'", missing)
    setting = next((shown(text) for text in overrides if quoted and "${" in text and quoted[1] in text), "a setting")
    return f"{setting}: {missing}; ${{...}} stands for another setting; do not use it in a text"


def _reason(cause: BaseException) -> str | None:
    """Return the message of an error that has one of its own, or names a choice or a setting that Hydra refuses."""
    if isinstance(cause, UserError):
        return str(cause)
    if isinstance(cause, MissingConfigException) and cause.options is not None:
        group, _, choice = str(cause.missing_cfg_file).rpartition("/")
        names = ", ".join(sorted(cause.options))
        return f"{group}={choice} is unknown; choose one of {names}" + did_you_mean(choice, cause.options)
    return explain_setting(cause)


def _system_reason(cause: BaseException) -> str | None:
    """Return the message for what the system refused or ended."""
    from gen2embed.utils.workers import why_ended  # noqa: PLC0415  # torch, for which --help does not wait

    return refusal(cause) or why_ended(cause)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and its causes. Under a debugger, OmegaConf makes some errors their own cause."""
    seen = set[int]()
    while error is not None and id(error) not in seen:
        yield error
        seen.add(id(error))
        error = error.__cause__


def unknown_key(path: str, valid: Iterable[str]) -> str:
    """Return the message for a dotted key that nothing reads, with the valid keys beside it."""
    if path in KEYS:
        return f"{path} is an earlier version's name; set {KEYS[path]}"
    parent, _, key = path.rpartition(".")
    names = sorted(set(valid) - SPECIAL_KEYS)
    owner = parent or "the configuration"
    return f"{path} is unknown; {owner} has {', '.join(names) or 'no keys'}" + did_you_mean(key, names)


def _siblings(key: str, defaults: Mapping[str, Any]) -> Iterable[str]:
    """Return the keys beside a dotted key."""
    node: Any = defaults
    for part in key.split(".")[:-1]:
        node = node.get(part, {}) if isinstance(node, dict) else {}
    return node if isinstance(node, dict) else {}


def default_config(config_name: str, overrides: Iterable[str], folders: Sequence[str] = ()) -> dict[str, Any]:
    """Return the default configuration with the choices of groups among `overrides`, and no other override.

    Args:
        config_name: The name of the configuration.
        overrides: The settings of the command line.
        folders: Where the files of groups may lie, beside the shipped ones.
    """
    groups = (override for override in overrides if (conf_dir() / override.partition("=")[0]).is_dir())
    choices = [override for override in groups if "," not in override]
    try:
        cfg = compose_shipped(config_name, choices, folders)
    except HydraException:
        cfg = compose_shipped(config_name)
    return plain(cfg, resolve=False)
