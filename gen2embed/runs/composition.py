"""Adapt a configuration to what was chosen: drop settings of an experiment for other choices; adopt a checkpoint's."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from gen2embed.config.overrides import Experiment
from gen2embed.config.presets import compose_shipped
from gen2embed.config.targets import find_target
from gen2embed.config.values import plain
from gen2embed.model.card import CARD, read_card, saved_settings
from gen2embed.model.pooling import target_of
from gen2embed.model.pretrained import PretrainedSource, fetch_file, find_adapter
from gen2embed.utils.errors import UserError
from gen2embed.utils.fingerprints import differences, flat
from gen2embed.utils.log import log

PLACES = {"strategy": "trainer.strategy"}  # groups whose settings do not lie below their own name
READ = {"data", "benchmark"}  # groups whose settings name rows, and so fit one choice only
WITH = {"mining": ["data.clusters"]}  # settings outside of a group that belong to an experiment's choice of it
FULL = "gen2embed.model.adapter.Full"


def drop_foreign(
    cfg: DictConfig, config_name: str, overrides: Mapping[str, str], experiment: Experiment, folders: Iterable[str] = ()
) -> dict[str, Any]:
    """Drop an experiment's settings of groups for which the command line makes another choice; return them by key.

    Of `READ` groups all settings are dropped, of other groups those that the choice does not have.

    Args:
        cfg: The composed configuration; changed in place.
        config_name: Its name.
        overrides: The settings of the command line, by key.
        experiment: The choices and settings of the experiment.
        folders: Where the files of groups may lie, beside the shipped ones.
    """
    settings, dropped = dict(flat(experiment.settings)), dict[str, Any]()
    shipped = OmegaConf.create(plain(compose_shipped(config_name, (), folders), resolve=False))
    for group, choice in overrides.items():
        if group == "experiment" or experiment.choices.get(group) == choice or "," in choice:
            continue
        place = PLACES.get(group, group)
        inside = [key for key in settings if key.startswith(f"{place}.") and _group_of(key) == group]
        outside = [key for key in WITH.get(group, ()) if key in settings]
        if not inside and not outside:
            continue
        node = OmegaConf.select(compose_shipped(config_name, [f"{group}={choice}"], folders), place)
        node = plain(node, resolve=False) if isinstance(node, DictConfig) else node
        for key in inside:
            name = key.removeprefix(f"{place}.")
            if _is_set(key, overrides) or (group not in READ and _has(node, name.split("."), place)):
                continue
            dropped[key] = settings[key]
            _restore(cfg, node, place, name)
        for key in outside:
            if not _is_set(key, overrides) and OmegaConf.select(cfg, key) is not None:
                dropped[key] = settings[key]
                OmegaConf.update(cfg, key, OmegaConf.select(shipped, key))
    if dropped:
        listing = ", ".join(f"{key}={value}" for key, value in dropped.items())
        log.warning("settings of the experiment that belong to another choice of their group are dropped: %s", listing)
    return dropped


def _group_of(key: str) -> str:
    """Return the group of a setting: that of `trainer.strategy.timeout_seconds` is `strategy`, not `trainer`."""
    return next((group for group, place in PLACES.items() if key.startswith(f"{place}.")), key.partition(".")[0])


def _is_set(key: str, overrides: Iterable[str]) -> bool:
    """Return whether the command line sets a key, or a key above it that is no group."""
    return any(key == name or key.startswith(f"{name}.") for name in overrides if "." in name)


def _has(node: Any, names: list[str], path: str) -> bool:
    """Return whether a choice of a group has a setting, or its constructor takes it."""
    if not isinstance(node, Mapping):
        return False
    if names[0] in node:
        return len(names) == 1 or _has(node[names[0]], names[1:], f"{path}.{names[0]}")
    return "_target_" in node and names[0] in inspect.signature(find_target(node["_target_"], path)).parameters


def _restore(cfg: DictConfig, node: Any, place: str, name: str) -> None:
    """Set a setting of a group to the value that its choice has, or remove it."""
    with open_dict(cfg):
        if not isinstance(node, Mapping):
            OmegaConf.update(cfg, place, node, merge=False)
            return
        values = dict(flat(node))
        if name in values:
            OmegaConf.update(cfg, f"{place}.{name}", values[name])
            return
        parent, _, key = f"{place}.{name}".rpartition(".")
        del OmegaConf.select(cfg, parent)[key]


def adopt_checkpoint(cfg: DictConfig, groups: Iterable[str], adapter_keys: set[str] | None) -> None:
    """Write the prompt, resolution, pooling and adapter settings of the checkpoint into the configuration.

    Args:
        cfg: The checked configuration; changed in place.
        groups: The groups that the user chose; a chosen prompt, resolution or pooling stays.
        adapter_keys: The settings of the adapter that the user chose; None for all.

    Raises:
        UserError: If chosen settings of the adapter differ from those of the checkpoint.
    """
    if not cfg.checkpoint:
        return
    folder = find_adapter(cfg.checkpoint, cfg.checkpoint_revision)
    file = folder / CARD if folder else fetch_file(cfg.checkpoint, CARD, cfg.checkpoint_revision)
    card = read_card(file.parent) if file else {}
    if card or folder:
        settings = PretrainedSource(cfg.checkpoint, folder, card).choose()
        adopted = {
            "prompt": {"_target_": cfg.prompt._target_, **settings.prompt.describe()},
            "resolution": {"_target_": cfg.resolution._target_, **settings.resolution.describe()},
            "pooling": target_of(settings.pooling),
        }
        for group, call in adopted.items():
            if group not in groups:
                OmegaConf.update(cfg, group, call, merge=False)
    if folder and cfg.get("adapter") is not None:
        _adopt_adapter(cfg, folder, adapter_keys)


def _adopt_adapter(cfg: DictConfig, folder: Path, chosen: set[str] | None) -> None:
    if cfg.adapter["_target_"] == FULL:
        raise UserError("adapter=full cannot go on from an adapter; choose adapter=lora, or a whole checkpoint")
    saved = saved_settings(folder)
    settings = {key: value for key, value in plain(cfg.adapter).items() if key in saved}
    differing = differences(
        {key: saved[key] for key in settings if chosen is None or key in chosen},
        {
            key: saved[key] if key == "target_modules" and set(saved[key]) <= set(value) else value
            for key, value in settings.items()
            if chosen is None or key in chosen
        },
    )
    if differing:
        raise UserError(
            f"checkpoint={cfg.checkpoint} is an adapter, whose settings stay, and other settings were chosen: "
            f"{'; '.join(differing)}; leave adapter=… out, or train a new adapter without checkpoint=…"
        )
    OmegaConf.update(cfg, "adapter", {**plain(cfg.adapter), **saved}, merge=False)
