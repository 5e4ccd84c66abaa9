"""Bad data: each input is embedded rightly or refused by its name, under both policies, and nothing takes its place."""

import json
import pickle
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import TINY, noise
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from malformed import KEYS, motif, row, write_corpus
from PIL import Image
from steps import collating

from gen2embed import Embedder, Item, UserError, images
from gen2embed.data.datamodules import PairDataModule
from gen2embed.data.pairs import Files
from gen2embed.data.quarantine import FILE, sound_pairs
from gen2embed.encoder.engine import Engine
from gen2embed.types import Picture


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    return folder / "data", write_corpus(folder)


@pytest.fixture(scope="module")
def skipped(corpus, tmp_path_factory):
    """The sound pairs, and the lines of the quarantine."""
    folder, out = corpus[0], tmp_path_factory.mktemp("out")
    pairs = sound_pairs(source(folder), out)
    return pairs, [json.loads(line) for line in (out / FILE).read_text().splitlines()]


def source(folder, **options):
    return Files(path=folder / "pairs.jsonl", **{"on_error": "skip", "max_skipped_share": 0.9, **options})


def test_every_case_is_embedded_or_refused_by_its_name(corpus, skipped):
    (_, cases), (pairs, (head, *lines)) = corpus, skipped
    assert len(cases) >= 300
    bad = {number: case for number, case in enumerate(cases) if case.said is not None}
    assert len(bad) >= 190
    assert head["rows"] == len(cases)
    assert head["skipped"] == len(lines) == len(bad)
    why = {line["row"]: line["why"] for line in lines}
    assert {cases[number].name for number in why.keys() ^ bad.keys()} == set()
    assert [pair.row for pair in pairs] == [number for number in range(len(cases)) if number not in bad]
    for number, case in bad.items():
        assert case.said in why[number], case.name
        assert f"row {number}" in why[number] or "images/" in next(line for line in lines if line["row"] == number)["file"]


def test_legal_pictures_show_what_they_show(corpus, skipped):
    """No channel, turn, range or frame is taken for another."""
    cases, pairs = corpus[1], {pair.row: pair for pair in skipped[0]}
    shown = {number: case for number, case in enumerate(cases) if case.shows}
    assert len(shown) > 75
    for number, case in shown.items():
        (picture,) = pairs[number].query.pictures
        pixels, expected = (np.asarray(its, float) for its in (images.load(picture), case.shows))
        assert pixels.shape == expected.shape, case.name
        assert abs(pixels - expected).mean() < 14, case.name  # of 255: what is lossy
