"""What the command line of a run chooses, and the experiment that it names, beside what is shipped."""

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
    """What an experiment's file chooses and sets, with those that it builds on.

    Args:
        choices: of groups, by their names.
        settings: nested, as the file has them.
    """

    choices: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)


def added_folders() -> list[str]:
    """The folders of yaml files that the command line adds to the shipped ones, by --config-dir or hydra.searchpath."""
    sources = HydraConfig.get().runtime.config_sources
    shipped = conf_dir()
    return [source.path for source in sources if source.schema == "file" and Path(source.path) != shipped]


def command_line() -> dict[str, str]:
    """Return what the command line overrides, by key."""
    split = (override.lstrip("+~").partition("=") for override in HydraConfig.get().overrides.task)
    return {key: value for key, _, value in split}


def overridden() -> set[str]:
    """The groups that the command line chooses or sets a key of."""
    return {key.partition(".")[0] for key in command_line()}


def experiment() -> Experiment:
    """Return what the experiment of the run chooses and sets; nothing without one."""
    return read_experiment(HydraConfig.get().runtime.choices.get("experiment"), [conf_dir(), *added_folders()])


def read_experiment(name: str | None, folders: list[Any]) -> Experiment:
    """Return what an experiment chooses and sets; later files win over those that they build on."""
    files = (Path(folder) / "experiment" / f"{name}.yaml" for folder in folders)  # Hydra takes the first, too
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
    """The groups that the command line overrides, or the experiment that it names."""
    named = experiment()
    return overridden() | set(named.choices) | set(named.settings)


def chosen_keys(group: str) -> set[str] | None:
    """Return which settings of a group are chosen by the command line or the experiment; None is the whole group."""
    given, named = command_line(), experiment()
    if group in given or group in named.choices:
        return None
    own = {key.removeprefix(f"{group}.").partition(".")[0] for key in given if key.startswith(f"{group}.")}
    return own | set(named.settings.get(group) or ())


def _merged(base: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    out = dict(base)
    for key, value in more.items():
        both = isinstance(value, Mapping) and isinstance(out.get(key), Mapping)
        out[key] = _merged(out[key], value) if both else value
    return out
