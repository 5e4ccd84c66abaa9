"""Bad data: each input is embedded rightly or refused by its name, under both policies, and nothing takes its place."""

import json
import pickle
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

from gen2embed import Embedder, Item, UserError
from gen2embed.__main__ import main
from gen2embed.data import quarantine
from gen2embed.data.locate import locate_pictures
from gen2embed.data.pairs import Files
from gen2embed.data.pictures import find_faults, load_picture
from gen2embed.data.quarantine import FILE, valid_pairs
from gen2embed.encoding.engine import Engine
from gen2embed.training.batches import ClusterBatchSampler, RankBatchSampler
from gen2embed.training.datamodule import PairDataModule
from gen2embed.types import ImagePart
from gen2embed.utils.workers import Prefetch


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    return folder / "data", write_corpus(folder)


@pytest.fixture(scope="module")
def skipped(corpus, tmp_path_factory):
    """The sound pairs, and the lines of the quarantine."""
    folder, out = corpus[0], tmp_path_factory.mktemp("out")
    pairs = valid_pairs(source(folder), out)
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
        assert (
            f"row {number}" in why[number] or "images/" in next(line for line in lines if line["row"] == number)["file"]
        )


def test_legal_pictures_show_what_they_show(corpus, skipped):
    """No channel, turn, range or frame is taken for another."""
    cases, pairs = corpus[1], {pair.row: pair for pair in skipped[0]}
    shown = {number: case for number, case in enumerate(cases) if case.shows}
    assert len(shown) > 75
    for number, case in shown.items():
        (picture,) = pairs[number].query.pictures
        pixels, expected = (np.asarray(image, float) for image in (load_picture(picture), case.shows))
        assert pixels.shape == expected.shape, case.name
        assert abs(pixels - expected).mean() < 14, case.name  # of 255: what is lossy


# --- where the first ends the run -----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", range(4))
def test_raise_ends_at_the_first_row_by_its_name(corpus, tmp_path, number):
    """Of files with one bad row each, a quarter of them a test."""
    folder, cases = corpus
    for case in [case for case in cases if case.said][number::4]:
        (folder / "one.jsonl").write_bytes(row() + b"\n" + case.line + b"\n")
        pair_source = Files(path=folder / "one.jsonl")
        try:
            with pytest.raises(UserError) as error:
                pairs = valid_pairs(pair_source, tmp_path)
                for pair in pairs:  # what a header does not tell
                    for picture in pair.pictures:
                        load_picture(picture)
            named = "one.jsonl row 1" in str(error.value) or case.line.count(b"images/") == 1
            assert named, case.name
            assert not (tmp_path / FILE).exists()
        finally:
            (folder / "one.jsonl").unlink()


def test_skip_stops_above_the_share(corpus, tmp_path):
    folder, cases = corpus
    bad = sum(case.said is not None for case in cases)
    with pytest.raises(UserError) as error:
        valid_pairs(source(folder, max_skipped_share=0.5), tmp_path)
    assert f"{bad} of {len(cases)} rows are bad, more than data.max_skipped_share=0.5: " in str(error.value)
    assert f"{tmp_path / FILE} lists them all" in str(error.value)
    assert len((tmp_path / FILE).read_text().splitlines()) == bad + 1
    for share in (-0.1, 1.0):
        with pytest.raises(UserError, match=r"data.max_skipped_share is in \[0, 1\)"):
            valid_pairs(source(folder, max_skipped_share=share), tmp_path)


def small(folder, *lines):
    noise(1).save(folder / "p.png")
    (folder / "pairs.jsonl").write_bytes(b"\n".join((row(qry_image_path="p.png"), *lines)))
    return source(folder)


def test_what_was_decoded_is_not_decoded_again(tmp_path, monkeypatch):
    """A run that goes on, and the other ranks, take what rank 0 listed; a file that changed is looked at again."""
    pair_source = small(tmp_path, b"{", row(qry="a"))
    first = valid_pairs(pair_source, tmp_path)
    decoded = []
    monkeypatch.setattr(
        quarantine, "find_faults", lambda *args, **options: decoded.append(1) or find_faults(*args, **options)
    )
    again = [valid_pairs(pair_source, tmp_path, leader=leader) for leader in (True, False)]
    assert [[pair.row for pair in pairs] for pairs in (first, *again)] == [[0, 2]] * 3
    assert not decoded
    (tmp_path / "p.png").write_bytes((tmp_path / "p.png").read_bytes()[:99])
    with pytest.raises(UserError, match=r"rank 0 did not write .*quarantine.jsonl for these rows within 0 seconds"):
        valid_pairs(pair_source, tmp_path, leader=False)
    assert [pair.row for pair in valid_pairs(pair_source, tmp_path)] == [2]
    assert decoded


def test_first_rows_are_counted_before_any_is_skipped(tmp_path):
    pair_source = replace(small(tmp_path, b"{", row(qry="a"), b"}", row(qry="b")), max_rows_per_subset=3)
    assert [pair.row for pair in valid_pairs(pair_source, tmp_path)] == [0, 2]
    assert json.loads((tmp_path / FILE).read_text().splitlines()[0])["rows"] == 3


def test_a_run_skips_and_goes_on_the_same(run_script, tmp_path):
    """Clusters and batches are of the sound rows; the report finds them again; other sound rows are other data."""
    noise(1).save(tmp_path / "p.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "p.png").read_bytes()[:500])
    lines = [row(qry=f"a {number}", pos_text=f"b {number}", qry_image_path="p.png") for number in range(8)]
    lines[3], lines[5] = row(qry_image_path="cut.png"), b"{"
    (tmp_path / "pairs.jsonl").write_bytes(b"\n".join(lines))
    shared = ("data=pairs", "data.path=pairs.jsonl", "data.on_error=skip", "mining.top_k=2")
    outcome = run_script("mine.py", *shared, "output_dir=mined")
    assert "2 of 8 rows are bad, more than data.max_skipped_share=0.01: pairs row 5: " in " ".join(outcome.err.split())
    more = (*shared, "data.max_skipped_share=0.3")
    assert (outcome := run_script("mine.py", *more, "output_dir=mined")).code == 0, outcome.err
    assert "2 of 8 rows are skipped; " in " ".join(outcome.err.split())
    train = ("train.py", *more, "benchmark=none", "batch.pairs=3", "output_dir=run", "batch.workers=2",
             "data.clusters=mined/clusters.parquet")  # fmt: skip
    assert (outcome := run_script(*train, "trainer.max_steps=1")).code == 0, outcome.err
    listed = [json.loads(line) for line in (tmp_path / "run" / FILE).read_text().splitlines()[1:]]
    assert {(line["subset"], line["row"]) for line in listed} == {("pairs", 3), ("pairs", 5)}
    assert main(["report", str(tmp_path / "mined")]) == 0
    noise(2).save(tmp_path / "cut.png")  # it is sound now, so the rows are other ones
    outcome = run_script(*train, "trainer.max_steps=1")
    assert outcome.code == 1
    assert "were mined from other data: 6 rows" in " ".join(outcome.err.split())


def test_a_name_that_leaves_the_folder_only_without_its_first_folder(tmp_path):
    """Where pictures lie without the first folder of their names."""
    noise(1).save(tmp_path / "secret.png")
    folder = tmp_path / "images"
    folder.mkdir()
    for name in "abc":
        noise(2).save(folder / f"{name}.png")
    locate = locate_pictures(folder, [*(f"train/{name}.png" for name in "abc"), "train/../secret.png"])
    assert locate("train/a.png") == folder / "a.png"
    with pytest.raises(UserError, match=r"the picture 'train/../secret.png' lies outside of .*images; mend the row"):
        locate("train/../secret.png")


# --- in the midst of a run ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_training_names_what_a_header_did_not_tell(run_script, tmp_path, workers):
    noise(1).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:2000])
    lines = [row(qry=f"a {number}", pos_text=f"b {number}") for number in range(7)]
    (tmp_path / "pairs.jsonl").write_bytes(b"\n".join([*lines, row(qry_image_path="cut.png")]))
    outcome = run_script(
        "train.py", "data=pairs", "data.path=pairs.jsonl", "mining=none", "benchmark=none", "batch.pairs=2",
        f"batch.workers={workers}", "trainer.max_steps=8", "seed=3", "output_dir=run",
    )  # fmt: skip
    assert outcome.code == 1
    output = " ".join(outcome.err.split())
    assert "pairs row 7: the file cut.png is not a picture that can be read" in output, output
    assert "Traceback" not in outcome.err


def test_a_picture_that_the_model_does_not_take_is_named(tiny):
    thin = Image.new("RGB", (3, 900))
    with pytest.raises(UserError, match=r"does not take the picture a 3x900 PIL picture, of 3x900 pixels after resol"):
        tiny.encode([{"image": noise(1)}, {"image": thin}])
    assert tiny.at_resolution("clamp").encode({"image": thin}).isfinite().all()


def test_what_legal_rows_become(skipped, tiny):
    """Loaders' workers change nothing, and each item has its own vector, whatever its neighbours are."""
    items = [pair.query for pair in skipped[0] if max(map(len, (*pair.query.texts, ""))) < 10_000]
    assert len(items) > 100
    together, by_workers = (Engine(workers=workers).encode(tiny, items, "query").vectors for workers in (0, 2))
    assert together.isfinite().all()
    assert torch.equal(together, by_workers)
    backwards = Engine(batch_tokens=200).encode(tiny, items[::-1], "query").vectors.flip(0)
    torch.testing.assert_close(together, backwards, atol=2e-6, rtol=0)
    for at in range(0, len(items), 12):
        torch.testing.assert_close(tiny.embed([items[at]], "query")[0].detach(), together[at], atol=2e-6, rtol=0)


def test_a_text_of_a_million_characters_keeps_the_end_of_its_prompt(tiny):
    long = "a red circle on white, " * 45_000
    ids, short = (tiny.build.token_ids(Item.create(text), "query") for text in (long, "a"))
    assert len(ids) <= tiny.build.max_length
    assert ids[-15:] == short[-15:]


def test_pictures_in_memory_are_what_their_files_are(tmp_path):
    """Turned, and in a palette: two with the same numbers and other colours are two pictures."""
    exif = Image.Exif()
    exif[0x0112] = 6
    motif().save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as opened:
        assert load_picture(ImagePart(opened)).tobytes() == load_picture(ImagePart(tmp_path / "turned.png")).tobytes()
        assert load_picture(ImagePart(opened)).size == motif().size[::-1]
        assert ImagePart(opened).key != ImagePart(motif()).key
    numbers = Image.new("P", (9, 9))
    blue = numbers.copy()
    numbers.putpalette([255, 0, 0])
    blue.putpalette([0, 0, 255])
    assert ImagePart(numbers).key != ImagePart(blue).key


@pytest.mark.parametrize("text", ["a \ud83d", "\ude00"])
def test_a_lone_surrogate_is_refused_wherever_it_comes_from(tiny, text):
    for given_ in (text, {"text": text}, {"text": "a", "instruction": text}):
        with pytest.raises(UserError, match="a text holds a lone surrogate at character"):
            tiny.encode(["fine", given_])


# --- a loader that does not fork ------------------------------------------------------------------------------------


def test_what_workers_get_can_be_pickled(skipped, tiny):
    """As it is, and after it was used."""
    pairs = skipped[0][:12]
    for _ in range(2):
        collate = collating(tiny, None)
        copy = pickle.loads(pickle.dumps((collate, pairs)))
        ours, theirs = collate(pairs), copy[0](copy[1])
        for chunk, expected in zip(ours.chunks, theirs.chunks, strict=True):
            assert all(torch.equal(chunk.inputs[name], expected.inputs[name]) for name in chunk.inputs)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_workers_that_are_not_forked(skipped, tiny, method):
    pairs, collate = skipped[0][:8], collating(tiny, None)
    share, before = (
        RankBatchSampler(ClusterBatchSampler([], len(pairs), 4, 0)),
        torch.multiprocessing.get_start_method(),
    )
    first = next(iter(PairDataModule(pairs, share, collate).train_dataloader()))
    torch.multiprocessing.set_start_method(method, force=True)
    try:
        batch = next(iter(PairDataModule(pairs, share, collate, Prefetch(1)).train_dataloader()))
    finally:
        torch.multiprocessing.set_start_method(before, force=True)
    assert batch.rows == first.rows
    assert torch.equal(batch.chunks[0].inputs["input_ids"], first.chunks[0].inputs["input_ids"])


def test_a_checkpoint_without_its_tokenizer(tmp_path):
    for file in TINY.iterdir():
        if file.name != "tokenizer.json":
            (tmp_path / file.name).symlink_to(file)
    with pytest.raises(
        UserError, match=rf"the tokenizer of {tmp_path} tells no texts apart: its tokenizer.json is mis"
    ):
        Embedder.from_pretrained(tmp_path, device="cpu")


# --- fuzzing --------------------------------------------------------------------------------------------------------

FUZZ = settings(max_examples=150, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
TEXTS = st.text(st.characters(codec=None), max_size=30)  # surrogates, too
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda leaf: st.lists(leaf, max_size=3),
    max_leaves=5,
)
NAMES = st.sampled_from([*KEYS, "neg_text", "neg_image_path", "score", "\ufeffqry", ""])
LINES = st.binary(max_size=40) | st.dictionaries(NAMES | TEXTS, VALUES, max_size=8).map(
    lambda row_values: json.dumps(row_values).encode()
)
FILES = st.lists(LINES, min_size=1, max_size=4).map(b"\n".join)


def parsed(path):
    """All rows are read, or skipped by their number and place, or the file is refused as a whole."""
    pair_source = Files(path=path, negatives=True, teacher_column="score")
    refused = {}
    try:
        pairs = pair_source.read(lambda _: refused)
    except UserError as error:
        assert str(path.parent) in str(error)
        return None
    assert not {pair.row for pair in pairs} & set(refused)
    for number, message in refused.items():
        assert f"{path} row {number}" in message
    for pair in pairs:
        for item in (pair.query, pair.positive, *pair.negatives):
            item.key, str(item).encode()
            assert all(
                path.parent in picture.source.parents or ".." not in str(picture.source) for picture in item.pictures
            )
    if refused:
        with pytest.raises(UserError):
            pair_source.pairs()
    return pairs


SOUND = {"qry": "a", "qry_image_path": "", "pos_text": "b", "pos_image_path": "", "neg_text": "", "neg_image_path": "",
         "score": 1}  # fmt: skip


@FUZZ
@given(FILES)
def test_rows_of_anything_in_jsonl(tmp_path, content):
    (tmp_path / "a.jsonl").write_bytes(json.dumps(SOUND).encode() + b"\n" + content)
    pairs = parsed(tmp_path / "a.jsonl")
    assert pairs is None or pairs[0].row == 0


@FUZZ
@given(st.binary(max_size=120))
def test_rows_of_anything_in_csv(tmp_path, content):
    (tmp_path / "a.csv").write_bytes((",".join(SOUND) + "\n").encode() + content)
    parsed(tmp_path / "a.csv")


@FUZZ
@given(st.binary(max_size=120))
def test_rows_of_anything_in_parquet(tmp_path, content):
    (tmp_path / "a.parquet").write_bytes(b"PAR1" + content + b"PAR1")
    assert parsed(tmp_path / "a.parquet") is None


PIECES = st.sampled_from(
    [
        "<|im_end|>",
        "<|image_pad|>",
        "<|vision_start|>",
        "<|image_1|>",
        "\ue0000\ue001",
        "\ue0001",
        "\n",
        " ",
        "{{",
        "\0",
    ]
)
SAID = st.lists(PIECES | st.text(max_size=5), max_size=6).map(lambda pieces: "".join([*pieces, "."]))


@FUZZ
@given(SAID, st.booleans(), st.sampled_from(["query", "candidate"]), st.none() | SAID)
def test_what_is_typed_moves_no_picture(tiny, text, pictured, role, instruction):
    """The special tokens of an input are those of its template, whatever its texts hold."""
    special = set(tiny.backbone.tokenizer.all_special_ids) | set(tiny.backbone.tokenizer.added_tokens_decoder)

    def skeleton(text, instruction):
        item = Item.create(text, noise(1) if pictured else None, instruction)
        return [token for token in tiny.build.token_ids(item, role) if token in special]

    assert skeleton(text, instruction) == skeleton("x", None if instruction is None else "y")
