"""Draw the demo's table and figure from the result folders of its arms.

    python -m examples.demo outputs/demo

Reads <folder>/<arm>/results.json of every arm; writes <folder>/results.json (arm -> overall, ci95, tasks) and demo.png.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from rich.table import Table

from gen2embed.outputs.paths import check_file, write_file
from gen2embed.outputs.redacted import write_json
from gen2embed.runs.console import print_table
from gen2embed.utils.errors import UserError

WRITER = "demo"  # in the record
ARMS = {  # key in the results: (label, run's folder)
    "chance": ("chance", None),
    "zero_shot_none": ("no prompt", "zero_shot_none"),
    "zero_shot_suffix": ("suffix only", "zero_shot_suffix"),
    "zero_shot_system": ("system only", "zero_shot_system"),
    "zero_shot_hierarchical": ("hierarchical", "zero_shot_hierarchical"),
    "finetuned_random": ("fine-tuned, random", "finetuned_random"),
    "finetuned_saha": ("fine-tuned, SaHa", "finetuned_saha"),
}


def collect(folder: Path) -> dict[str, Any]:
    """Return the overall score, its 95 % interval and the scores of the tasks, by arm; chance is analytic.

    Raises:
        UserError: If an arm is missing, or was run on other tasks or numbers of queries.
    """
    runs: dict[str, Any] = {}
    for arm, (_, run_folder) in ARMS.items():
        if run_folder is None:
            continue
        path = folder / run_folder / "results.json"
        if not path.is_file():
            raise UserError(f"the demo's arm {arm} has no results: {path} is missing; run `make demo`")
        runs[arm] = json.loads(path.read_text())
    sizes = {arm: {name: task["queries"] for name, task in run["tasks"].items()} for arm, run in runs.items()}
    if any(size != sizes["zero_shot_none"] for size in sizes.values()):
        raise UserError(
            f"the demo's arms in {folder} were run on different tasks or queries; remove it and run `make demo`"
        )
    any_run = runs["zero_shot_none"]
    chance = any_run["overall"]["chance"]
    arms = {
        "chance": {
            "overall": chance,
            "ci95": [chance, chance],
            "tasks": {name: task["chance"] for name, task in any_run["tasks"].items()},
        }
    }
    for arm, run in runs.items():
        arms[arm] = {
            "overall": run["overall"]["precision@1"],
            "ci95": run["overall"]["ci95"],
            "tasks": {name: task["precision@1"] for name, task in run["tasks"].items()},
        }
    return arms


def table(arms: dict[str, Any]) -> Table:
    """Return a table with one row per task and one column per arm."""
    out = Table(title="embedded world: precision@1 in percent")
    out.add_column("task")
    for arm in arms:
        out.add_column(ARMS[arm][0], justify="right")
    for task in arms["chance"]["tasks"]:
        out.add_row(task, *(f"{100 * scores['tasks'][task]:.1f}" for scores in arms.values()))
    out.add_section()
    out.add_row("overall", *(f"{100 * scores['overall']:.1f}" for scores in arms.values()), style="bold")
    out.add_row("95 % interval", *("{:.1f} - {:.1f}".format(*(100 * end for end in s["ci95"])) for s in arms.values()))
    return out


def figure(arms: dict[str, Any]) -> Figure:
    """Return a figure: on the left the overall scores with intervals, on the right all tasks."""
    colours = ["0.6", *mpl.color_sequences["tab10"]]
    out = Figure(figsize=(12, 4.6), layout="constrained")
    left, right = out.subplots(1, 2, width_ratios=(1, 2.2))
    for index, (arm, scores) in enumerate(arms.items()):
        overall, (low, high) = scores["overall"], scores["ci95"]
        left.bar(
            index, overall, yerr=[[overall - low], [high - overall]], color=colours[index], ecolor="0.2", capsize=3
        )
        left.text(index, high + 0.01, f"{100 * overall:.1f}", ha="center", va="bottom")
        places = np.arange(len(scores["tasks"])) + (index - len(arms) / 2) * 0.8 / len(arms)
        right.bar(places, list(scores["tasks"].values()), 0.8 / len(arms), color=colours[index], label=ARMS[arm][0])
    left.set_xticks(range(len(arms)), [ARMS[arm][0] for arm in arms], rotation=30, ha="right")
    left.set_ylabel("precision@1, mean of tasks (95 % interval)")
    tasks = list(arms["chance"]["tasks"])
    right.set_xticks(range(len(tasks)), tasks, rotation=30, ha="right")
    right.set_ylabel("precision@1")
    out.legend(loc="outside upper right", ncols=len(arms), columnspacing=1.2, frameon=False, fontsize=9)
    for axes in (left, right):
        axes.set_ylim(0, None)
        axes.spines[["top", "right"]].set_visible(False)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    try:
        arms = collect(folder)
        for name in ("results.json", "demo.png"):
            check_file(folder / name, WRITER)
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
    write_json(folder / "results.json", arms, by=WRITER)
    write_file(folder / "demo.png", WRITER, lambda file: figure(arms).savefig(file, dpi=150))
    print_table(table(arms))
    print(f"{folder / 'results.json'} and {folder / 'demo.png'} written")


if __name__ == "__main__":
    main()
