"""Compare runs that differ in some settings: the work of `python -m gen2embed compare`."""

from __future__ import annotations

import argparse
import csv
import io
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import yaml
from matplotlib.figure import Figure
from rich.table import Table
from rich.text import Text
from scipy import stats

from gen2embed.config.renamed import translate
from gen2embed.outputs.paths import check_file, write_file
from gen2embed.runs.console import print_table
from gen2embed.utils.errors import UserError
from gen2embed.utils.fingerprints import flat, without

WRITER = "compare"  # in the record
FILES = ("scores.csv", "scores.png", "curves.png")
Run = Mapping[str, Any]  # its results.json, what it logged, and the choices of its groups
Arm = tuple[str, ...]  # the settings that differ between arms, as NAME=VALUE
Arms = Mapping[Arm, Sequence[Run]]
CURVES = ("loss", "accuracy", "positive_similarity", "negative_similarity", "validation/mean")
# What may differ within an arm; seeds of the miner and the data may follow the run's.
IGNORED = ("seed", "mining.seed", "data.seed", "output_dir", "paths", "logger", "callbacks", "resume")


def read_runs(folder: Path) -> list[Run]:
    """Return the results of every run below a folder; raises `UserError` for none, or for runs on different tasks."""
    runs: list[Run] = [
        {**json.loads(path.read_text()), "logged": _logged(path), "choices": _choices(path)}
        for path in sorted(folder.glob("**/results.json"))
    ]
    runs = [run for run in runs if "manifest" in run]
    if not runs:
        raise UserError(f"{folder} holds no run's results.json")
    if len({json.dumps({name: task["queries"] for name, task in run["tasks"].items()}) for run in runs}) > 1:
        raise UserError(f"the runs in {folder} were evaluated on different tasks or queries; compare them apart")
    return runs


def _logged(results: Path) -> dict[str, dict[int, float]]:
    """Return by name the values of a run's `metrics.csv` at each step; empty without one."""
    file = results.with_name("metrics.csv")
    logged: dict[str, dict[int, float]] = defaultdict(dict)
    if file.is_file():
        with file.open(newline="") as lines:
            for row in csv.DictReader(lines):
                for name, value in row.items():
                    if value and name in CURVES:
                        logged[name][int(float(row["step"]))] = float(value)
    return logged


def _choices(results: Path) -> dict[str, str]:
    """Return the choice of each group of a run, as Hydra saved it; empty where it did not."""
    file = results.parent / ".hydra" / "hydra.yaml"
    return yaml.safe_load(file.read_text())["hydra"]["runtime"]["choices"] if file.is_file() else {}


def group_by_arm(runs: Sequence[Run], by: Sequence[str] = ()) -> Arms:
    """Return runs by the settings in which they differ, besides the seed.

    Where the choice of a group decides a setting, the choice stands for it. Where a class differs, its name stands for
    its settings.

    Args:
        runs: The runs, at least one.
        by: The settings to group by; none takes all that differ.

    Raises:
        UserError: For a setting that does not differ.
    """
    configs = [without(translate(run["manifest"]["config"]), IGNORED) for run in runs]
    leaves = [dict(flat(config)) for config in configs]
    keys, missing = sorted(set[str]().union(*leaves)), object()
    differing = [key for key in keys if any(run.get(key, missing) != leaves[0].get(key, missing) for run in leaves)]
    classes = {key.removesuffix("._target_") for key in differing if key.endswith("._target_")}
    settings: dict[str, list[str]] = {}  # the value for each run
    for key in differing:
        group = key.partition(".")[0]
        values = [str(_get(config, key)) for config in configs]
        if _decides(choices := [run["choices"].get(group) for run in runs], values):
            settings[group] = choices
        elif key.endswith("._target_"):
            settings[key.removesuffix("._target_")] = [value.rpartition(".")[2] for value in values]
        elif key.rpartition(".")[0] not in classes:
            settings[key] = values
    if unknown := [name for name in by if name not in settings]:
        raise UserError(f"the runs do not differ in {unknown[0]}, but in {', '.join(settings) or 'the seed alone'}")
    arms: dict[Arm, list[Run]] = defaultdict(list)
    for number, run in enumerate(runs):
        arm = tuple(f"{name}={values[number]}" for name, values in settings.items() if not by or name in by)
        arms[arm or ("all",)].append(run)
    return dict(sorted(arms.items()))


def _decides(choices: Sequence[str | None], values: Sequence[str]) -> bool:
    """Return whether runs of one choice have one value."""
    return None not in choices and len(set(zip(choices, values, strict=True))) == len(set(choices))


def mean_interval(values: Sequence[float]) -> tuple[float, float | None]:
    """Return the mean and half the width of its 95 % interval; a single value has no interval, which is None."""
    if len(values) < 2:
        return float(values[0]), None
    return float(np.mean(values)), float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))


def table(arms: Arms) -> Table:
    """Return a row for each arm, in percent; the best of each column is bold."""
    columns = _columns(arms)
    cells = {arm: [mean_interval(_scores(runs, column)) for column in columns] for arm, runs in arms.items()}
    best = [max(row[index][0] for row in cells.values()) for index in range(len(columns))]
    single = any(half is None for row in cells.values() for _, half in row)
    why = "one seed has no interval; run more of them: seed=1,2,3" if single else None
    result = Table(title="precision@1 in percent, mean over seeds ± 95 % interval", caption=why)
    for name in ("arm", "seeds", *columns):
        result.add_column(name, justify="left" if name == "arm" else "right")
    for arm, row in cells.items():
        shown = [f"{100 * mean:.1f}" + ("" if half is None else f" ± {100 * half:.1f}") for mean, half in row]
        marked = [Text(text, "bold") if row[i][0] == best[i] else text for i, text in enumerate(shown)]
        result.add_row(", ".join(arm), str(len(_scores(arms[arm], columns[0]))), *marked)
    return result


def scores_chart(arms: Arms) -> Figure:
    """Return a panel for each column of the table, with a dot for each arm's mean, and its interval."""
    columns = _columns(arms)
    coloured, colours = _colours(arms)
    figure = Figure(figsize=(2.2 * len(columns) + 3, 1.2 + 0.25 * len(arms)), layout="constrained")
    panels = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
    for axes, column in zip(panels, columns, strict=True):
        for row, (arm, runs) in enumerate(arms.items()):
            mean, half = mean_interval(_scores(runs, column))
            width = None if half is None else 100 * half
            axes.errorbar(100 * mean, row, xerr=width, fmt="o", color=colours[arm[coloured]], capsize=2)
        axes.set_title(column)
        axes.grid(axis="x", alpha=0.3)
    panels[0].set_yticks(range(len(arms)), [", ".join(arm) for arm in arms])
    panels[0].invert_yaxis()
    figure.supxlabel("precision@1 in percent, mean over seeds and 95 % interval; one seed has none")
    return figure


def curves_chart(arms: Arms) -> Figure | None:
    """Return the means over seeds of the values that runs logged in training; None if they logged none.

    The setting with most values is shown by colour, the others by row.
    """
    metrics = [name for name in CURVES if any(name in run["logged"] for runs in arms.values() for run in runs)]
    if not metrics:
        return None
    coloured, colours = _colours(arms)
    rest = {arm: ",\n".join(value for index, value in enumerate(arm) if index != coloured) for arm in arms}
    rows = list(dict.fromkeys(rest.values()))
    figure = Figure(figsize=(3.6 * len(metrics), 0.8 + 2.4 * len(rows)), layout="constrained")
    panels = figure.subplots(len(rows), len(metrics), sharex=True, sharey="col", squeeze=False)
    for arm, runs in arms.items():
        for axes, metric in zip(panels[rows.index(rest[arm])], metrics, strict=True):
            logged = [run["logged"].get(metric, {}) for run in runs]
            steps = sorted(set.intersection(*map(set, logged)))
            means = [np.mean([values[step] for values in logged]) for step in steps]
            axes.plot(steps, means, color=colours[arm[coloured]], linewidth=1.2)
            axes.grid(alpha=0.3)
    for axes, metric in zip(panels[0], metrics, strict=True):
        axes.set_title(metric.replace("_", " "))
    for axes, row in zip(panels[:, 0], rows, strict=True):
        axes.set_ylabel(row, fontsize=8)
    handles = [mpl.lines.Line2D([], [], color=colours[name], label=name) for name in colours]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), frameon=False)
    figure.supxlabel("step")
    return figure


def _colours(arms: Iterable[Arm]) -> tuple[int, dict[str, tuple[float, float, float]]]:
    """Return the place of the setting with most values, and a colour for each of them."""
    values = [list(dict.fromkeys(column)) for column in zip(*arms, strict=True)]
    coloured = max(range(len(values)), key=lambda index: len(values[index]))
    return coloured, dict(zip(values[coloured], cycle(mpl.color_sequences["tab10"]), strict=False))


def _columns(arms: Arms) -> list[str]:
    """Return the averages that have a score, and the tasks of groups that have none, as some were not run."""
    run = next(iter(arms.values()))[0]
    groups = [group for group, average in run["groups"].items() if average]
    tasks = [name for name, task in run["tasks"].items() if task["group"] not in groups]
    return [*["overall"] * bool(run["overall"]), *groups, *tasks]


def _score(run: Run, column: str) -> float:
    return float({**run["tasks"], **run["groups"], "overall": run["overall"]}[column]["precision@1"])


def _scores(runs: Sequence[Run], column: str) -> list[float]:
    """Return for each seed the mean over its runs."""
    by_seed: dict[int, list[float]] = defaultdict(list)
    for run in runs:
        by_seed[run["manifest"]["config"]["seed"]].append(_score(run, column))
    return [float(np.mean(scores)) for scores in by_seed.values()]


def write_scores(path: Path, arms: Arms) -> None:
    """Write a line for each run: its settings that differ, its seed, its commit, and its scores from 0 to 1."""
    columns, text = _columns(arms), io.StringIO(newline="")
    lines = csv.writer(text, lineterminator="\n")
    settings = [setting.partition("=")[0] for setting in next(iter(arms))]
    lines.writerow([*settings, "seed", "commit", *columns])
    for arm, runs in arms.items():
        values = [setting.partition("=")[2] for setting in arm]
        for run in runs:
            manifest = run["manifest"]
            scores = [f"{_score(run, column):.6f}" for column in columns]
            lines.writerow([*values, manifest["config"]["seed"], manifest.get("git_commit"), *scores])
    write_file(path, WRITER, lambda file: file.write(text.getvalue().encode()))


def _get(config: Any, key: str) -> Any:
    for part in key.split("."):
        config = config.get(part) if isinstance(config, Mapping) else None
    return config


def run(args: argparse.Namespace) -> None:
    """Print the table and write the files; raises `UserError` for a folder without runs that can be compared."""
    folder = args.folder
    runs = read_runs(folder)
    arms = group_by_arm(runs, args.by)
    for name in FILES:
        check_file(folder / name, WRITER)
    write_scores(folder / "scores.csv", group_by_arm(runs))
    print_table(table(arms))
    for name, chart in (("scores.png", scores_chart(arms)), ("curves.png", curves_chart(arms))):
        if chart is not None:
            write_file(folder / name, WRITER, lambda file, chart=chart: chart.savefig(file, dpi=150))  # type: ignore[misc]
