"""Compare runs that differ in some settings: mean and interval over seeds.

    python -m gen2embed.compare outputs/miners

Reads the results.json of every run below a folder, takes those that differ in nothing but the seed as one arm, and
prints a row an arm: the mean over seeds with its 95 % interval (Student's t), overall and by group.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from scipy import stats

from gen2embed.encoder.store import differences
from gen2embed.report import print_table
from gen2embed.types import UserError

IGNORED = ("seed", "output_dir", "paths", "logger", "callbacks", "resume")  # what may differ within an arm


def read_runs(folder: Path) -> list[dict[str, Any]]:
    """The results of every run below `folder`; raises `UserError` for none, or for runs on different tasks."""
    runs = [json.loads(path.read_text()) for path in sorted(folder.glob("**/results.json"))]
    runs = [run for run in runs if "manifest" in run]
    if not runs:
        raise UserError(f"{folder} holds no run's results.json")
    if len({json.dumps({name: its["queries"] for name, its in run["tasks"].items()}) for run in runs}) > 1:
        raise UserError(f"the runs in {folder} were evaluated on different tasks or queries; compare them apart")
    return runs


def arms(runs: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Runs by what their configurations differ in, besides the seed; where a class differs, by its name alone."""
    configs = [_settings(run["manifest"]["config"]) for run in runs]
    differing = sorted({line.split(" is ")[0] for config in configs for line in differences(configs[0], config)})
    classes = {key.removesuffix("._target_") for key in differing if key.endswith("._target_")}
    told = [key for key in differing if key.endswith("._target_") or key.rpartition(".")[0] not in classes]
    named: dict[str, list[Mapping[str, Any]]] = {}
    for run, config in zip(runs, configs, strict=True):
        values = (_told(config, key) for key in told)
        named.setdefault(", ".join(values) or "all", []).append(run)
    return named


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """The mean and half the width of its 95 % interval; NaN for a single value."""
    if len(values) < 2:
        return float(values[0]), float("nan")
    return float(np.mean(values)), float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))


def table(named: Mapping[str, Sequence[Mapping[str, Any]]]) -> Table:
    """A row an arm, in percent; the best of each column is bold."""
    any_run = next(iter(named.values()))[0]
    columns = ["overall", *any_run["groups"]]
    cells = {arm: [mean_interval(_scores(runs, column)) for column in columns] for arm, runs in named.items()}
    best = [max(row[index][0] for row in cells.values()) for index in range(len(columns))]
    out = Table(title="precision@1 in percent, mean over seeds ± 95 % interval")
    for name in ("arm", "seeds", *columns):
        out.add_column(name, justify="left" if name == "arm" else "right")
    for arm, row in cells.items():
        shown = [f"{100 * mean:.1f} ± {100 * half:.1f}" for mean, half in row]
        marked = [f"[bold]{text}[/]" if row[i][0] == best[i] else text for i, text in enumerate(shown)]
        out.add_row(arm, str(len(named[arm])), *marked)
    return out


def _scores(runs: Sequence[Mapping[str, Any]], column: str) -> list[float]:
    averages = [run["overall"] if column == "overall" else run["groups"][column] for run in runs]
    return [average["precision@1"] if average else float("nan") for average in averages]


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without what may differ within an arm; a miner's seed is the run's."""
    kept = {key: value for key, value in config.items() if key not in IGNORED}
    if kept.get("mining"):
        kept["mining"] = {key: value for key, value in kept["mining"].items() if key != "seed"}
    return kept


def _told(config: Mapping[str, Any], key: str) -> str:
    value = _get(config, key)
    if key.endswith("._target_"):
        return f"{key.removesuffix('._target_')}={str(value).rpartition('.')[2]}"
    return f"{key}={value}"


def _get(config: Any, key: str) -> Any:
    for part in key.split("."):
        config = config.get(part) if isinstance(config, Mapping) else None
    return config


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    try:
        print_table(table(arms(read_runs(parser.parse_args().folder))))
    except UserError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
