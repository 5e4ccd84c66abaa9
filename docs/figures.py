"""Draws the figures of docs/method.md, by the project's own code on the embedded model and world; a minute on a CPU.

python docs/figures.py [--data outputs/figures] [--output docs/images]
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gen2embed import Embedder
from gen2embed.config.presets import PACKAGE
from gen2embed.data.pictures import load_picture
from gen2embed.mining.base import Subset
from gen2embed.mining.owners import GroupIndex, nearest_owners
from gen2embed.mining.subsets import make_subset
from gen2embed.outputs.paths import write_file
from gen2embed.types import Pair, RankingTask
from gen2embed.world.data import World, read_world

TASK, SUBSET = "shape", "t2i"
TOP_K, MULTIPLIER = 5, 3
SHARE = 0.3  # of rows with a twin: another row that means the same
KEPT, SKIPPED, TWIN = "#0072b2", "#9a9a9a", "#d55e00"
PROMPTS = {"none": "no prompt", "hierarchical": "hierarchical prompt"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("outputs/figures"), help="where the world is drawn")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("images"))
    args = parser.parse_args()
    task = next(its for its in read_world(args.data, {"classification": [TASK]}).tasks if its.name == TASK)
    world = World(args.data, rows=400, false_negatives=SHARE, subsets=[SUBSET])
    for name, figure in (
        ("method_prompt", prompt_figure(task)),
        ("method_saha", saha_figure(world.pairs(), world.meanings(SUBSET))),
    ):
        file, own = args.output / f"{name}.png", Path(__file__).with_name("images") / f"{name}.png"
        write_file(file, "figures", partial(figure.savefig, dpi=150), own=[own])
        print(args.output / f"{name}.png")


def embedder(prompt: str = "hierarchical") -> Embedder:
    return Embedder.from_pretrained(PACKAGE / "tiny" / "checkpoint", prompt=prompt, resolution="original")


# --- what the prompt does -------------------------------------------------------------------------------------------


def prompt_figure(task: RankingTask) -> Figure:
    """The answers to a classification task's queries, by the right one, without a prompt and with it."""
    figure = Figure(figsize=(9, 4.6), layout="constrained")
    for axes, prompt in zip(figure.subplots(1, len(PROMPTS), sharey=True), PROMPTS, strict=True):
        model = embedder(prompt)
        queries = model.encode(task.queries, role=task.query_role)
        candidates = model.encode(task.candidates, role=task.candidate_role)
        counts = np.zeros((len(task.candidates),) * 2, int)
        graded = zip(task.choices, task.relevance, strict=True)
        right = [choices[int(np.argmax(grades))] for choices, grades in graded]
        np.add.at(counts, (right, (queries @ candidates.T).argmax(1).numpy()), 1)
        _counts(axes, counts, [candidate.texts[0] for candidate in task.candidates])
        axes.set_title(f"{PROMPTS[prompt]}: {100 * counts.trace() / counts.sum():.1f} % right")
    axes.set_ylabel("")
    return figure


def _counts(axes: Axes, counts: np.ndarray, names: list[str]) -> None:
    axes.imshow(counts, cmap="Blues", vmin=0, vmax=25)
    for (row, column), count in np.ndenumerate(counts):
        if count:
            colour = "white" if count > 15 else "black"
            axes.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=9)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="nearest candidate", ylabel="shape in the picture")


# --- what SaHa keeps ------------------------------------------------------------------------------------------------


def saha_figure(pairs: list[Pair], meanings: list[str]) -> Figure:
    """The owners that one anchor sees, which of them SaHa keeps, and which mean the same: its false negatives."""
    model = embedder()
    queries = model.encode([pair.query for pair in pairs], role="query").numpy()
    positives = model.encode([pair.positive for pair in pairs], role="candidate").numpy()
    subset = make_subset(pairs, queries, positives, classification=False)
    said = np.array(meanings)
    pools = (pool(subset, anchor) for anchor in range(len(pairs)))
    anchor, owners, near = next(its for its in pools if (said[its[1]] == said[its[0]]).sum() == 1)
    order = np.argsort(near, kind="stable")
    kept = np.zeros(len(owners), bool)
    kept[order[:TOP_K]] = True
    figure = Figure(figsize=(9, 4.6), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[1.15, 1])
    _points(left.subplots(), near, kept, said[owners] == said[anchor])
    shown = [(order[:TOP_K], KEPT, "kept: the owners least like the anchor"),
             (order[::-1][:TOP_K], SKIPPED, "skipped: the most like it")]  # fmt: skip
    for part, (places, colour, title) in zip(
        right.subfigures(3, 1, height_ratios=[1, 1.5, 1.5])[1:], shown, strict=True
    ):
        part.suptitle(title, fontsize=10)
        for axes, place in zip(part.subplots(1, TOP_K), places, strict=True):
            row = int(owners[place])
            twin = said[row] == said[anchor]
            axes.imshow(load_picture(pairs[row].positive.pictures[0]))
            axes.set(xticks=[], yticks=[], xlabel=f"{near[place]:.2f}")
            for spine in axes.spines.values():
                spine.set(color=TWIN if twin else colour, linewidth=3)
    right.text(0.02, 0.97, f"anchor: “{pairs[anchor].query.texts[0].splitlines()[-1]}”", va="top", wrap=True)
    return figure


def pool(subset: Subset, anchor: int) -> tuple[int, np.ndarray, np.ndarray]:
    """The anchor, the owners of its nearest candidates, the nearest first, and their likeness to it: steps 1 and 2."""
    found = subset.top(2 * TOP_K * MULTIPLIER)[anchor]
    owners = GroupIndex(subset.positive, len(subset.candidates))
    rows, places = owners.gather(found[found != subset.positive[anchor]])
    return anchor, *nearest_owners(subset.queries, anchor, rows, places, TOP_K * MULTIPLIER)


def _points(axes: Axes, near: np.ndarray, kept: np.ndarray, twins: np.ndarray) -> None:
    rank = np.arange(1, len(near) + 1)
    axes.scatter(rank[kept], near[kept], s=60, color=KEPT, label=f"kept (K = {TOP_K})")
    axes.scatter(rank[~kept], near[~kept], s=60, facecolor="white", edgecolor=SKIPPED, label="skipped")
    axes.scatter(rank[twins], near[twins], s=220, facecolor="none", edgecolor=TWIN, linewidth=2, label="false negative")
    axes.set_xlabel("owners, by their positive's likeness to the anchor")
    axes.set_ylabel("cosine of the owner's query to the anchor's")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, frameon=False, handletextpad=0.2)
    axes.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    main()
