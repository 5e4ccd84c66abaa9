"""What the command line of a run chooses, beside what is shipped."""

from __future__ import annotations

from pathlib import Path

import yaml
from hydra.core.hydra_config import HydraConfig

from gen2embed.presets import conf_dir


def added_folders() -> list[str]:
    """The folders of yaml files that the command line adds to the shipped ones, by --config-dir or hydra.searchpath."""
    sources = HydraConfig.get().runtime.config_sources
    shipped = conf_dir()
    return [source.path for source in sources if source.schema == "file" and Path(source.path) != shipped]


def overridden() -> set[str]:
    """The groups that the command line chooses or sets a key of."""
    overrides = HydraConfig.get().overrides.task
    return {override.lstrip("+~").partition("=")[0].partition(".")[0] for override in overrides}


def chosen_groups() -> set[str]:
    """The groups that the command line overrides, or the experiment that it names."""
    groups, experiments = overridden(), [HydraConfig.get().runtime.choices.get("experiment")]
    folders = [conf_dir(), *map(Path, added_folders())]
    while experiments:
        name = experiments.pop()
        files = (folder / "experiment" / f"{name}.yaml" for folder in folders)  # Hydra takes the first, too
        if file := next(filter(Path.is_file, files), None):
            experiment = yaml.safe_load(file.read_text())
            groups |= {str(key) for key in experiment if key != "defaults"}
            for entry in experiment.get("defaults", []):
                if isinstance(entry, str):
                    experiments.append(entry)
                else:
                    groups |= {str(key).rpartition("/")[2] for key in entry}
    return groups
