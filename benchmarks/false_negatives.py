"""How many of the negatives within clusters are false, on the embedded world, which knows the truth.

    python benchmarks/false_negatives.py [--rows 400] [--share 0.3] [--top-k 7] [--seeds 0 1 2] [--folder data/world]

Every ordered pair of a cluster's rows is a query and a negative: false if the two rows mean the same. `--share` of the
rows of the retrieval subsets are twins, which nothing in the rows tells: their queries and positives are worded or
drawn otherwise. In the other subsets nearly all rows that mean the same share a positive, so that a miner can know.
Prints one markdown table; a run takes minutes, nearly all of it for embedding.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from gen2embed import Embedder
from gen2embed.config.presets import PACKAGE
from gen2embed.encoding.engine import Engine
from gen2embed.mining.b3 import B3
from gen2embed.mining.base import Miner
from gen2embed.mining.mine import mine_pairs
from gen2embed.mining.random import Random
from gen2embed.mining.saha import SaHa, SaHaPaper, TopK
from gen2embed.utils.commit import git_commit
from gen2embed.world.data import World
from gen2embed.world.tasks import TASKS

RETRIEVAL = ("i2t", "t2i", "change")
CLASSIFICATION = ("shape", "colour", "object")


def miners(top_k: int, seed: int) -> dict[str, Miner]:
    topk, saha, b3 = TopK(top_k=top_k), SaHa(top_k=top_k), B3(top_k=top_k, seed=seed)
    return {
        "random": Random(top_k=top_k, seed=seed),
        "topk": topk,
        "saha_paper": SaHaPaper(top_k=top_k),
        "saha": saha,
        "b3": b3,
        **{
            f"{name}, positive_share {share}": replace(miner, positive_share=share)
            for share in (1, 0.95)
            for name, miner in {"topk": topk, "saha": saha, "b3": b3}.items()
        },
    }


def count(clusters: Sequence[Sequence[int]], meanings: Sequence[str]) -> tuple[int, int]:
    """Return how many ordered pairs of rows share a cluster, and how many of these mean the same."""
    pairs = sum(len(members) * (len(members) - 1) for members in clusters)
    cluster_words = [np.array([meanings[row] for row in members]) for members in clusters]
    return pairs, sum(int((words[:, None] == words).sum()) - len(words) for words in cluster_words)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--share", type=float, default=0.3)
    parser.add_argument("--top-k", type=int, default=7)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, default=Path("data/world"))
    args = parser.parse_args()
    model = Embedder.from_pretrained(PACKAGE / "tiny" / "checkpoint", resolution="original")
    engine = Engine(store=args.folder.parent / "embeddings")
    cells: dict[str, list[tuple[str, int, int, int, int, int, list[float]]]] = {}
    rows = 0
    for seed in args.seeds:
        world = World(args.folder, seed=seed, rows=args.rows, false_negatives=args.share)
        pairs = world.pairs()
        rows = len(pairs)
        meanings = {subset: world.meanings(subset) for subset in TASKS}
        for name, miner in miners(args.top_k, seed).items():
            clusters: dict[str, dict[int, list[int]]] = {subset: {} for subset in TASKS}
            near: dict[str, list[float]] = {subset: [] for subset in TASKS}
            for row in mine_pairs(model, engine, pairs, miner, CLASSIFICATION).table.to_pylist():
                clusters[row["subset"]].setdefault(row["cluster"], []).append(row["row"])
                if row["position"] and row["similarity"] is not None:
                    near[row["subset"]].append(row["similarity"])
            for subset, clusters_of_subset in clusters.items():
                members = list(clusters_of_subset.values())
                covered = len({row for rows_of_one in members for row in rows_of_one})
                sizes = len(members), sum(map(len, members)), covered
                cells.setdefault(name, []).append((subset, *count(members, meanings[subset]), *sizes, near[subset]))

    print(f"\ncommit {git_commit()}; {rows:,} rows, seeds {args.seeds}, K = {args.top_k}, twins {args.share:g}\n")
    print("| miner | retrieval | classification | vqa, grounding | rows a cluster | covered | similarity, retrieval |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, parts in cells.items():
        kinds: dict[str, list[int]] = {}
        for subset, negatives, false, *_ in parts:
            kind = "retrieval" if subset in RETRIEVAL else "classification" if subset in CLASSIFICATION else "rest"
            total = kinds.setdefault(kind, [0, 0])
            total[0] += negatives
            total[1] += false
        shares = [f"{100 * kinds[kind][1] / kinds[kind][0]:.2f} %" for kind in ("retrieval", "classification", "rest")]
        clusters_of_all, placed, covered = (sum(part[place] for part in parts) for place in (3, 4, 5))
        hard = [value for subset, *_, values in parts if subset in RETRIEVAL for value in values]
        ends = [f"{placed / clusters_of_all:.1f}", f"{100 * covered / (rows * len(args.seeds)):.1f} %"]
        print(f"| {' | '.join([name, *shares, *ends, f'{np.mean(hard):.3f}' if hard else ''])} |")


if __name__ == "__main__":
    main()
