"""Data with few classes: a query whose candidates all equal its positive trains nothing, and the run says so."""

import csv
import json

import pytest

from gen2embed.data.positives import Positives
from gen2embed.encoding.engine import Engine
from gen2embed.mining.mine import mine_pairs
from gen2embed.mining.random import Random
from gen2embed.types import Item, Pair


@pytest.mark.parametrize(("classes", "wasted"), [(["spam"], [4, 4]), (["spam"] * 5 + ["ham"], [0, 0])])
def test_training_on_few_classes(run_script, tmp_path, classes, wasted):
    """12 rows in batches of 4; of two classes, the rare one has two rows, and each of the first two batches has one."""
    rows = [
        {"qry": f"review {row}", "qry_image_path": "", "pos_text": classes[row % len(classes)], "pos_image_path": ""}
        for row in range(8 if len(classes) == 1 else 12)
    ]
    (tmp_path / "reviews.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    outcome = run_script(
        "train.py", "data=pairs", "data.path=reviews.jsonl", "mining=none", "benchmark=none", "batch.pairs=4",
        "trainer.max_steps=2", "trainer.log_every_n_steps=1", "output_dir=run",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    with (tmp_path / "run/metrics.csv").open() as lines:
        steps = [row for row in csv.DictReader(lines) if row["loss"]]
    said = " ".join(outcome.err.split())
    if len(classes) == 1:
        assert [float(row["without_negatives"]) for row in steps] == wasted
        assert "every pair of subset reviews has the same positive (8 rows" in said
        assert "2 of 2 batches" in said
        assert "step 1: the batch has no negative for 4 queries" in said
        assert "8 queries in 2 steps had no negative" in said
    else:
        assert "1 of 3 batches" in said
        assert len([row for row in steps if float(row["without_negatives"]) == 0]) >= 1


def test_a_miner_of_one_class(tiny, caplog):
    pairs = [Pair(Item.create(f"review {row}"), Item.create("spam"), "reviews", row) for row in range(6)]
    assert Positives.from_pairs(pairs).lone_subsets(pairs) == {"reviews": list(range(6))}
    mine_pairs(tiny, Engine(store=None), pairs, Random(top_k=2), [])
    assert [message for message in caplog.messages if "subset reviews has the same positive (6 rows)" in message]
