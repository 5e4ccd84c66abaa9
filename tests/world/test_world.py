"""The world: what is drawn is what is said, written as MMEB's rows, and its false negatives are known."""

import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import SIZE
from PIL import Image

from gen2embed import UserError
from gen2embed.data.pairs import Mmeb
from gen2embed.world.data import World, read_world
from gen2embed.world.scenes import BACKGROUNDS, CELL, COLOURS, SHAPES, Scene, Thing, draw_thing, sample_scene
from gen2embed.world.tasks import ANSWERS, OBJECTS, TASKS

GROUPS = {"all": list(TASKS)}


def test_scenes_say_what_they_draw():
    rng = random.Random(0)
    for _ in range(300):
        scene = sample_scene(rng)
        pixels = np.asarray(scene.draw(rng))
        assert pixels.shape == (84, 84, 3)
        for cell in range(9):
            top, left = (CELL * part for part in divmod(cell, 3))
            empty = (pixels[top : top + CELL, left : left + CELL] == BACKGROUNDS[scene.background]).all()
            assert empty == (cell not in scene.cells)
        for wording in (0, 1):
            words = scene.caption(wording).replace(",", " ").split()
            for thing in scene.things:
                assert {thing.size, thing.texture, thing.colour} <= set(words)
            assert scene.background in words


def test_relations_hold():
    rng = random.Random(0)
    for _ in range(100):
        scene = sample_scene(rng, "relation")
        (top_a, left_a), (top_b, left_b) = (divmod(cell, 3) for cell in scene.cells)
        holds = {
            "left of": left_a < left_b,
            "right of": left_a > left_b,
            "above": top_a < top_b,
            "below": top_a > top_b,
        }
        assert holds[scene.relation]


def test_equal_meaning_is_equal_captions():
    rng = random.Random(0)
    scenes = [sample_scene(rng, "one") for _ in range(2000)]
    by_meaning = {}
    for scene in scenes:
        by_meaning.setdefault(scene.meaning, set()).add((scene.caption(0), scene.caption(1)))
    assert len(by_meaning) < len(scenes)
    assert all(len(captions) == 1 for captions in by_meaning.values())
    a, b = Thing("small", "solid", "red", "star"), Thing("large", "dotted", "blue", "ring")
    scene, mirrored = Scene("white", (a, b), (0, 1), "left of"), Scene("white", (b, a), (1, 0), "right of")
    assert scene.meaning == mirrored.meaning
    assert scene.caption(1) == "on white there is a large dotted blue ring right of a small solid red star"
    assert scene.meaning != Scene("white", (b, a), (0, 1), "left of").meaning


def test_every_attribute_shows():
    thing = Thing("large", "solid", "red", "circle")
    pixels = {}
    for attribute in ("size", "texture", "colour", "shape"):
        for seed in range(40):
            changed = thing.changed(attribute, random.Random(seed))
            pixels[changed] = draw_thing(changed, "white", random.Random(0)).tobytes()
    assert len(set(pixels.values())) == len(pixels) == 1 + 2 + 7 + 7


@pytest.fixture(scope="module")
def tasks(world):
    return {task.name: task for task in read_world(world.folder, GROUPS, queries=8).tasks}


def test_layout_on_disk(world):
    train, test = world.train(), world.eval()
    for name in TASKS:
        table = pq.read_table(train / name / "original-00000-of-00001.parquet")
        assert table.column_names == ["qry", "qry_image_path", "pos_text", "pos_image_path"]
        assert table.num_rows == 24
        table = pq.read_table(test / name / "test-00000-of-00001.parquet")
        assert table.column_names == ["qry_text", "qry_img_path", "tgt_text", "tgt_img_path"]
        assert table.num_rows == 8
    with Image.open(next(test.glob("images/shape/*.png"))) as picture:
        assert (picture.format, picture.size) == ("PNG", (84, 84))


def test_tasks_are_as_described(tasks):
    sizes = {name: len(task.choices[0]) for name, task in tasks.items()}
    assert len(ANSWERS) == len(set(ANSWERS)) == 33
    assert len(OBJECTS) == 192
    assert sizes == {
        "shape": 8, "colour": 8, "object": 192, "vqa_colour": 33, "vqa_shape": 33, "vqa_texture": 33, "vqa_count": 33,
        "vqa_spatial": 33, "i2t": 64, "t2i": 64, "change": 32, "grounding": 16,
    }  # fmt: skip
    for task in tasks.values():
        assert all(len(set(choices)) == len(choices) for choices in task.choices), task.name
    assert all(item.pictures for item in tasks["t2i"].candidates)
    assert not any(item.pictures for item in tasks["t2i"].queries)
    with Image.open(tasks["grounding"].candidates[0].pictures[0].source) as crop:
        assert crop.size == (28, 28)


def test_near_duplicates_are_among_the_candidates(tasks):
    words = [item.texts[0].replace("on ", "").split() for item in tasks["i2t"].candidates]
    near = []
    for choices in tasks["i2t"].choices:
        right = Counter(words[choices[0]])
        near.append(sum((right - Counter(words[choice])).total() <= 3 for choice in choices[1:8]))
    assert np.mean(near) > 3


def test_it_is_drawn_once_and_the_same(tmp_path):
    worlds = [World(tmp_path / name, **SIZE) for name in ("a", "b")]
    drawn = [(world.train(), world.eval()) for world in worlds]
    first, again = ({path.relative_to(world.folder): path for path in world.folder.rglob("*")} for world in worlds)
    times = {path: path.stat().st_mtime_ns for path in first.values()}
    assert drawn[0] == (worlds[0].train(), worlds[0].eval())
    assert times == {path: path.stat().st_mtime_ns for path in worlds[0].folder.rglob("*")}
    assert first.keys() == again.keys()
    for name, path in first.items():
        assert path.is_dir() or path.read_bytes() == again[name].read_bytes()


def test_another_seed_is_another_world(world, tmp_path):
    second = World(tmp_path, seed=1, rows=24, queries=8)
    assert second.train().name != world.train().name
    assert second.meanings("i2t") != world.meanings("i2t")


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    return World(tmp_path_factory.mktemp("planted"), rows=400, false_negatives=0.3)


@pytest.mark.parametrize("subset", ["i2t", "t2i", "change"])
def test_planted_false_negatives(planted, subset):
    plain = replace(planted, false_negatives=0.0)
    assert len(set(plain.meanings(subset))) == 400
    meanings = planted.meanings(subset)
    twins = 400 - len(set(meanings))
    assert 90 <= twins <= 150
    pairs = replace(planted, subsets=[subset]).pairs()
    for index in range(1, 400):
        if meanings[index] == meanings[index - 1]:
            before, now = (pair.positive for pair in pairs[index - 1 : index + 1])
            same = before.texts == now.texts and [p.source for p in before.pictures] == [p.source for p in now.pictures]
            assert not same


def test_read_pairs(world):
    folder = world.train()
    pairs = Mmeb(path=str(folder), image_dir=folder, subsets=["shape", "t2i"], max_rows_per_subset=5).pairs()
    assert [(pair.subset, pair.row) for pair in pairs] == [(s, r) for s in ("shape", "t2i") for r in range(5)]
    assert pairs[0].query.pictures[0].source.is_file()
    assert pairs[0].query.texts == ("\nRepresent the given image for shape classification.",)
    assert pairs[0].positive.texts[0] in SHAPES
    assert pairs[5].positive.pictures


def test_bad_worlds(tmp_path):
    for options in ({"rows": 0}, {"queries": 0}, {"false_negatives": 0.9}):
        with pytest.raises(UserError, match=r"needs rows and queries of at least 1 and false_negatives in \[0, 0.5\]"):
            World(tmp_path, **options)


def test_colours_are_apart():
    values = np.array([*COLOURS.values(), *BACKGROUNDS.values()], float)
    apart = np.linalg.norm(values[:, None] - values, axis=-1) + 1e9 * np.eye(len(values))
    assert apart.min() > 50


def test_every_picture_is_listed(world):
    folder = world.eval()
    listed = {picture.source for picture in read_world(world.folder, GROUPS, queries=8).pictures}
    assert listed == set(folder.glob("images/*/*.png"))
