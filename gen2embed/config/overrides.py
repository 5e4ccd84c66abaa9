"""Read what the command line of a run and its experiment choose and set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from hydra.core.hydra_config import HydraConfig

from gen2embed.config.presets import conf_dir


@dataclass(frozen=True)
class Experiment:
    """The choices and settings of an experiment's file, with those of the files that it builds on.

    Args:
        choices: The choice of each group, by the group's name.
        settings: The settings, nested as in the file.
    """

    choices: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)


def added_folders() -> list[str]:
    """Return the folders of yaml files that --config-dir or hydra.searchpath add to the shipped ones."""
    sources = HydraConfig.get().runtime.config_sources
    shipped = conf_dir()
    return [source.path for source in sources if source.schema == "file" and Path(source.path) != shipped]


def command_line() -> dict[str, str]:
    """Return the settings of the command line by key, as text."""
    split = (override.lstrip("+~").partition("=") for override in HydraConfig.get().overrides.task)
    return {key: value for key, _, value in split}


def overridden() -> set[str]:
    """Return the groups that the command line chooses, or of which it sets a key."""
    return {key.partition(".")[0] for key in command_line()}


def experiment() -> Experiment:
    """Return the experiment of the run; an empty one if the command line names none."""
    return read_experiment(HydraConfig.get().runtime.choices.get("experiment"), [conf_dir(), *added_folders()])


def read_experiment(name: str | None, folders: list[Any]) -> Experiment:
    """Return an experiment. A file's settings win over those of the files that it builds on.

    Args:
        name: The experiment; None for an empty one.
        folders: The folders that may hold it. The first that does is read, as Hydra does.
    """
    files = (Path(folder) / "experiment" / f"{name}.yaml" for folder in folders)
    if (file := next(filter(Path.is_file, files), None)) is None:
        return Experiment()
    content = yaml.safe_load(file.read_text())
    choices: dict[str, str] = {}
    settings: dict[str, Any] = {}
    for entry in content.pop("defaults", []):
        if isinstance(entry, str):
            base = read_experiment(entry, folders)
            choices |= base.choices
            settings = _merged(settings, base.settings)
        else:
            choices |= {str(key).rpartition("/")[2]: str(value) for key, value in entry.items()}
    return Experiment(choices, _merged(settings, content))


def chosen_groups() -> set[str]:
    """Return the groups that the command line or its experiment chooses or changes."""
    base = experiment()
    return overridden() | set(base.choices) | set(base.settings)


def chosen_keys(group: str) -> set[str] | None:
    """Return the settings of a group that the command line or the experiment sets; None if the group is chosen."""
    settings, base = command_line(), experiment()
    if group in settings or group in base.choices:
        return None
    keys = {key.removeprefix(f"{group}.").partition(".")[0] for key in settings if key.startswith(f"{group}.")}
    return keys | set(base.settings.get(group) or ())


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with changes; mappings are merged, other values replaced."""
    merged = dict(base)
    for key, value in changes.items():
        nested = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merged(merged[key], value) if nested else value
    return merged
