"""Write stand-ins for the public datasets: their folders and files, filled with pictures of the embedded world.

    <folder>/MMEB-train/<subset>/<split>-*.parquet, images/<subset>/Train/<n>.png
    <folder>/MMEB-eval/<task>/test-*.parquet,       images/<task>/<n>.png
    <folder>/sugar-crepe/data/<subset>.json, scpp/data/<subset>.json, coco/val2017/<n>.jpg

A rehearsal and the tests use them in place of the real datasets. No existing file is replaced.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gen2embed.world.drawn import Saver, eval_columns, train_columns
from gen2embed.world.scenes import Scene, sample_scene
from gen2embed.world.tasks import TASKS

KINDS = {  # tasks of the world, by the meta-task for which they stand in
    "classification": ("shape", "colour"),
    "vqa": ("vqa_colour", "vqa_texture"),
    "retrieval": ("i2t", "t2i", "change"),
    "grounding": ("grounding",),
}
SPLITS = ("original", "diverse_instruction")


def write_mmeb_train(folder: Path, subsets: Sequence[str], rows: int) -> None:
    """Write MMEB-train's layout. Each subset is a task of the world, in turn."""
    kinds = [kind for tasks in KINDS.values() for kind in tasks]
    for number, subset in enumerate(subsets):
        examples = TASKS[kinds[number % len(kinds)]](random.Random(f"train {subset}"), 0.0)
        save = Saver(folder, f"images/{subset}/Train/{subset}_{{}}.png")
        columns = train_columns(itertools.islice(examples, rows), save)
        for split in SPLITS:
            _write_parquet(folder / subset / f"{split}-00000-of-00001.parquet", columns)


def write_mmeb_eval(folder: Path, groups: Mapping[str, Sequence[str]], queries: int, candidates: int) -> None:
    """Write MMEB-eval's layout. Each task is one of the world's of the same meta-task; pictures lie below `images`."""
    for group, tasks in groups.items():
        for number, task in enumerate(tasks):
            kind = KINDS[group][number % len(KINDS[group])]
            examples = itertools.islice(TASKS[kind](random.Random(f"eval {task}"), 0.0), queries)
            columns = eval_columns(examples, Saver(folder, f"images/{task}/{task}_{{}}.png"), candidates)
            columns["qry_img_path"] = [name.removeprefix("images/") for name in columns["qry_img_path"]]
            columns["tgt_img_path"] = [[n.removeprefix("images/") for n in names] for names in columns["tgt_img_path"]]
            _write_parquet(folder / task / "test-00000-of-00001.parquet", columns)


def write_sugarcrepe(folder: Path, subsets: Sequence[str], subsets_pp: Sequence[str], rows: int) -> None:
    """Write SugarCrepe's and SugarCrepe++'s files, and a COCO folder. A wrong caption has one colour changed."""
    rng = random.Random("sugarcrepe")
    pictures = folder / "coco" / "val2017"
    pictures.mkdir(parents=True)
    written: list[dict[str, Any]] = []
    for number in range(rows):
        scene, name = sample_scene(rng, "mixed"), f"{number:012}.jpg"
        scene.draw(rng).save(pictures / name, quality=95)
        captions = {"caption": scene.caption(0), "caption2": scene.caption(1)}
        written.append({"id": number, "filename": name, **captions, "negative_caption": _wrong(scene, rng).caption(0)})
    first = {str(row["id"]): {key: row[key] for key in ("filename", "caption", "negative_caption")} for row in written}
    for subset in subsets:
        _write_json(folder / "sugar-crepe" / "data" / f"{subset}.json", first)
    for subset in subsets_pp:
        _write_json(folder / "scpp" / "data" / f"{subset}.json", written)


def _wrong(scene: Scene, rng: random.Random) -> Scene:
    old, *others = scene.things
    return replace(scene, things=(old.changed("colour", rng), *others))


def _write_parquet(path: Path, columns: Mapping[str, Sequence]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        pq.write_table(pa.table(dict(columns)), file)


def _write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("x") as file:
        json.dump(value, file)
