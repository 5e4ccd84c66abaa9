"""A model of ours, run by mteb's own machinery on tasks that are drawn here."""

import importlib
import sys

import mteb
import numpy as np
import pytest
import torch
from conftest import TINY
from datasets import Dataset, DatasetDict, Features, Value
from datasets import Image as ImageFeature
from mteb.abstasks.classification import AbsTaskClassification
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.models.models_protocols import EncoderProtocol
from PIL import Image, ImageDraw

from gen2embed import UserError
from gen2embed.export.mteb import MtebEncoder

COLOURS = ["red", "green", "blue", "yellow"]


def metadata(name, kind, category, modalities, score):
    given = {"name": name, "type": kind, "category": category, "modalities": modalities, "main_score": score}
    given |= {"dataset": {"path": "drawn/here", "revision": "1"}, "description": "drawn", "bibtex_citation": ""}
    unknown = ("reference", "date", "domains", "task_subtypes", "license", "annotations_creators", "dialect")
    return TaskMetadata(
        **given, **dict.fromkeys((*unknown, "sample_creation")), eval_splits=["test"], eval_langs=["eng-Latn"]
    )


def circle(colour, size):
    picture = Image.new("RGB", (84, 84), "white")
    ImageDraw.Draw(picture).ellipse((10, 10, 50 + size, 50 + size), fill=colour)
    return picture


def dataset(**columns):
    types = {"image": ImageFeature(), "label": Value("int64")}
    return Dataset.from_dict(columns, Features({name: types.get(name, Value("string")) for name in columns}))


class Retrieval(AbsTaskRetrieval):
    metadata = metadata("DrawnRetrieval", "Any2AnyRetrieval", "it2i", ["text", "image"], "recall_at_1")

    def load_data(self, **options):
        numbers = [str(number) for number in range(len(COLOURS))]
        blank = [Image.new("RGB", (84, 84), "white")] * len(COLOURS)
        texts = [f"a {colour} circle" for colour in COLOURS]
        split = {
            "queries": dataset(id=[f"q{number}" for number in numbers], text=texts, image=blank),
            "corpus": dataset(id=[f"c{number}" for number in numbers], image=[circle(its, 9) for its in COLOURS]),
            "relevant_docs": {f"q{number}": {f"c{number}": 1} for number in numbers},
            "top_ranked": None,
        }
        self.dataset, self.data_loaded = {"default": {"test": split}}, True


class Classification(AbsTaskClassification):
    metadata = metadata("DrawnClassification", "ImageClassification", "i2c", ["image"], "accuracy")
    input_column_name, samples_per_label, n_experiments = "image", 2, 1

    def load_data(self, **options):
        rows = [(number, colour) for number, colour in enumerate(COLOURS) for _ in range(3)]
        splits = {
            split: dataset(
                image=[circle(colour, start + at % 3) for at, (_, colour) in enumerate(rows)],
                label=[number for number, _ in rows],
            )
            for split, start in (("train", 0), ("test", 8))
        }
        self.dataset, self.data_loaded = DatasetDict(splits), True


@pytest.fixture(scope="module")
def model():
    return MtebEncoder(str(TINY), resolution="original", device="cpu")


@pytest.mark.parametrize("task", [Retrieval, Classification])
def test_tasks_run(model, task):
    assert isinstance(model, EncoderProtocol)
    made = mteb.evaluate(model, task(), cache=None, show_progress_bar=False)
    assert made.task_results[0].get_score() == 1.0  # chance is a quarter


def encoded(model, batches, prompt_type=None):
    options = {"task_metadata": Retrieval.metadata, "hf_split": "test", "hf_subset": "default"}
    return model.encode(batches, prompt_type=prompt_type, show_progress_bar=False, **options)


def test_roles_and_modalities(model):
    picture = circle("red", 3)
    given = [{"text": "a circle"}, {"image": picture}, {"text": "a circle", "image": picture}]
    for prompt_type, role in ((mteb.types.PromptType.query, "query"), (mteb.types.PromptType.document, "candidate")):
        for one in given:
            batch = {name: [value, value] for name, value in one.items()}
            found = encoded(model, [batch, batch], prompt_type)
            assert found.dtype == np.float32
            np.testing.assert_allclose(found, model.embedder.encode([one] * 4, role), atol=1e-6)
    candidates = encoded(model, [{"text": ["a circle"]}], mteb.types.PromptType.document)
    np.testing.assert_array_equal(encoded(model, [{"text": ["a circle"]}]), candidates)
    assert not np.allclose(encoded(model, [{"text": ["a circle"]}], mteb.types.PromptType.query), candidates)
    assert encoded(model, [{"text": [""]}]).shape == (1, 128)
    with pytest.raises(UserError, match="DrawnRetrieval has audio and neither texts nor pictures"):
        encoded(model, [{"audio": [None]}])


def test_similarities(model):
    vectors = torch.randn(3, 8)
    found = model.similarity(vectors.numpy(), vectors * 2)
    torch.testing.assert_close(found, torch.nn.functional.cosine_similarity(vectors[:, None], vectors[None], dim=-1))
    torch.testing.assert_close(model.similarity_pairwise(vectors, vectors), torch.ones(3))
    assert model.similarity(vectors[0], vectors).shape == (1, 3)


def test_results_are_filed_by_what_decides_them(model, monkeypatch):
    meta = model.mteb_model_meta
    assert meta.name == "gen2embed/checkpoint"
    assert meta.modalities == ["text", "image"]
    assert meta.embed_dim == 128
    other = MtebEncoder(str(TINY), resolution="original", prompt="none", device="cpu").mteb_model_meta
    assert other.revision != meta.revision
    monkeypatch.setitem(sys.modules, "mteb.models.model_meta", None)
    with pytest.raises(UserError, match=r"pip install 'gen2embed\[mteb\]'"):
        _ = model.mteb_model_meta


def test_mteb_is_imported_where_it_is_used(monkeypatch):
    monkeypatch.setitem(sys.modules, "mteb", None)
    importlib.reload(importlib.import_module("gen2embed.export.mteb"))
