"""Settings that do not fit what was chosen: an experiment's for another choice of a group, or not a checkpoint's."""

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
from gen2embed.model.pretrained import Source, fetch_file, find_adapter
from gen2embed.utils.errors import UserError
from gen2embed.utils.fingerprints import differences, flat
from gen2embed.utils.log import log

PLACES = {"strategy": "trainer.strategy"}  # of groups whose settings do not lie below their name
READ = {"data", "benchmark"}  # groups whose settings are of the rows of a choice, and of no other
WITH = {"mining": ["data.clusters"]}  # what an experiment sets elsewhere for its choice of a group
FULL = "gen2embed.model.adapter.Full"


def drop_foreign(
    cfg: DictConfig, config_name: str, given: Mapping[str, str], named: Experiment, folders: Iterable[str] = ()
) -> dict[str, Any]:
    """Drop an experiment's settings of groups of which the command line makes another choice.

    Of `READ` groups all are dropped, of others those that the choice does not have. Returns them, by key.

    Args:
        cfg: composed; changed in place.
        config_name: of the entry point.
        given: what the command line overrides, by key.
        named: what the experiment chooses and sets.
        folders: where choices may lie, beside the shipped ones.
    """
    settings, dropped = dict(flat(named.settings)), dict[str, Any]()
    shipped = OmegaConf.create(plain(compose_shipped(config_name, (), folders), resolve=False))
    for group, choice in given.items():
        if group == "experiment" or named.choices.get(group) == choice or "," in choice:
            continue
        place = PLACES.get(group, group)
        own = [key for key in settings if key.startswith(f"{place}.") and _group_of(key) == group]
        further = [key for key in WITH.get(group, ()) if key in settings]
        if not own and not further:
            continue
        node = OmegaConf.select(compose_shipped(config_name, [f"{group}={choice}"], folders), place)
        node = plain(node, resolve=False) if isinstance(node, DictConfig) else node
        for key in own:
            below = key.removeprefix(f"{place}.")
            if _is_given(key, given) or (group not in READ and _has(node, below.split("."), place)):
                continue
            dropped[key] = settings[key]
            _restore(cfg, node, place, below)
        for key in further:
            if not _is_given(key, given) and OmegaConf.select(cfg, key) is not None:
                dropped[key] = settings[key]
                OmegaConf.update(cfg, key, OmegaConf.select(shipped, key))
    if dropped:
        said = ", ".join(f"{key}={value}" for key, value in dropped.items())
        log.warning("settings of the experiment that belong to another choice of their group are dropped: %s", said)
    return dropped


def _group_of(key: str) -> str:
    """Return the group of a setting: `trainer.strategy.timeout_seconds` is of the strategy, not of the trainer."""
    return next((group for group, place in PLACES.items() if key.startswith(f"{place}.")), key.partition(".")[0])


def _is_given(key: str, given: Iterable[str]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in given if "." in name)


def _has(node: Any, names: list[str], path: str) -> bool:
    """Return whether a choice of a group has a setting, or its constructor takes it."""
    if not isinstance(node, Mapping):
        return False
    if names[0] in node:
        return len(names) == 1 or _has(node[names[0]], names[1:], f"{path}.{names[0]}")
    return "_target_" in node and names[0] in inspect.signature(find_target(node["_target_"], path)).parameters


def _restore(cfg: DictConfig, node: Any, place: str, below: str) -> None:
    """Set a key of a group to what its choice has, or remove it."""
    with open_dict(cfg):
        if not isinstance(node, Mapping):
            OmegaConf.update(cfg, place, node, merge=False)
            return
        value = dict(flat(node)).get(below, cfg)
        if value is not cfg:
            OmegaConf.update(cfg, f"{place}.{below}", value)
            return
        parent, _, name = f"{place}.{below}".rpartition(".")
        del OmegaConf.select(cfg, parent)[name]


def adopt_checkpoint(cfg: DictConfig, groups: Iterable[str], adapter_keys: set[str] | None) -> None:
    """Have the configuration name the prompt, the resolution and the adapter that a checkpoint brings.

    Args:
        cfg: checked; changed in place.
        groups: that were chosen; their prompt and resolution stay.
        adapter_keys: settings of the adapter that were chosen; None is all.

    Raises:
        UserError: if chosen settings of the adapter differ from those of the checkpoint's.
    """
    if not cfg.checkpoint:
        return
    folder = find_adapter(cfg.checkpoint, cfg.checkpoint_revision)
    file = folder / CARD if folder else fetch_file(cfg.checkpoint, CARD, cfg.checkpoint_revision)
    card = read_card(file.parent) if file else {}
    if card or folder:
        prompt, resolution = Source(cfg.checkpoint, folder, card).choose(None, None, None)
        for group, brought in (("prompt", prompt), ("resolution", resolution)):
            if group not in groups:
                OmegaConf.update(cfg, group, {"_target_": cfg[group]._target_, **brought.describe()}, merge=False)
    if folder and cfg.get("adapter") is not None:
        _adopt_adapter(cfg, folder, adapter_keys)


def _adopt_adapter(cfg: DictConfig, folder: Path, chosen: set[str] | None) -> None:
    if cfg.adapter["_target_"] == FULL:
        raise UserError("adapter=full cannot go on from an adapter; choose adapter=lora, or a whole checkpoint")
    saved = saved_settings(folder)
    here = {key: value for key, value in plain(cfg.adapter).items() if key in saved}
    differing = differences(
        {key: saved[key] for key in here if chosen is None or key in chosen},
        {
            key: saved[key] if key == "target_modules" and set(saved[key]) <= set(value) else value
            for key, value in here.items()
            if chosen is None or key in chosen
        },
    )
    if differing:
        raise UserError(
            f"checkpoint={cfg.checkpoint} is an adapter that is trained further as it is, and other settings were "
            f"chosen: {'; '.join(differing)}; leave adapter=… out, or train a new one without checkpoint=…"
        )
    OmegaConf.update(cfg, "adapter", {**plain(cfg.adapter), **saved}, merge=False)
