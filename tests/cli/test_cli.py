"""`python -m gen2embed`: files and folders to vectors, and a search among them."""

import json
import os
import re
import sys

import faiss  # noqa: F401  (imported first, or its OpenMP meets torch's)
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import TINY, noise

from gen2embed import UserError
from gen2embed.__main__ import COMMANDS, main
from gen2embed.cli.arguments import STORE
from gen2embed.cli.commands import embed, search
from gen2embed.cli.commands.inputs import read_inputs
from gen2embed.encoding.compression import compress
from gen2embed.model.embedder import Embedder

MODEL = ("--model", str(TINY), "--resolution", "original")
TEXTS = ["a red circle", "two blue stars", "[bold] words", "a red circle"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory with texts, pictures and rows."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos/more").mkdir(parents=True)
    for number, name in enumerate(("b.png", "a.JPG", "more/c.png")):
        noise(number).save(tmp_path / "photos" / name)
    (tmp_path / "photos/notes.md").write_text("no picture")
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS) + "\n")
    rows = [
        {"text": "what is it?", "image": "photos/b.png"},
        {"text": "a star", "image": None},
        {"image": "photos/a.JPG"},
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "rows.csv").write_text("id,image,text\n1,photos/a.JPG,\n2,photos/b.png,\n")
    pq.write_table(pa.table({"text": TEXTS}), tmp_path / "rows.parquet")
    return tmp_path


def run(capfd, *args):
    """Exit code, output and errors of a command."""
    capfd.readouterr()
    try:
        code = main(args)
    except SystemExit as stop:
        code = stop.code
    return code, *capfd.readouterr()


# --- embed ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "inputs", "columns"),
    [
        ("texts.txt", TEXTS, {"text": TEXTS}),
        ("rows.parquet", TEXTS, {"text": TEXTS, "image": [""] * 4}),
        ("rows.csv", [{"image": "photos/a.JPG"}, {"image": "photos/b.png"}],
         {"text": ["", ""], "image": ["photos/a.JPG", "photos/b.png"]}),
        ("rows.jsonl", [{"text": "what is it?", "image": "photos/b.png"}, "a star", {"image": "photos/a.JPG"}],
         {"text": ["what is it?", "a star", ""], "image": ["photos/b.png", "", "photos/a.JPG"]}),
        ("photos", [{"image": f"photos/{name}"} for name in ("a.JPG", "b.png", "more/c.png")],
         {"image": ["a.JPG", "b.png", "more/c.png"]}),
        ("photos/b.png", {"image": "photos/b.png"}, {"image": ["b.png"]}),
    ],
)  # fmt: skip
def test_embed(here, tiny, capfd, given, inputs, columns):
    code, out, err = run(capfd, "embed", given, "--output", "out/x.parquet", "--role", "candidate", *MODEL)
    assert (code, err) == (0, "")
    table = pq.read_table("out/x.parquet")
    assert table.select(list(columns)).to_pydict() == columns
    assert table.column_names == [*columns, "embedding"]
    expected = tiny.encode(inputs, "candidate")
    torch.testing.assert_close(torch.tensor(table["embedding"].to_pylist()), expected, atol=1e-6, rtol=0)
    assert f"out/x.parquet written: {len(expected)} vectors of 128 elements in float32" in out
    made_by = json.loads(table.schema.metadata[b"gen2embed"])
    assert (made_by["role"], made_by["dim"], made_by["precision"]) == ("candidate", 128, "float32")
    assert made_by["fingerprint"]["model"] == tiny.fingerprint["model"]


def test_a_tilde_in_an_option_is_the_home_folder(here, capfd, monkeypatch, tiny):
    """A shell leaves it in `--output=~/x.npy`."""
    monkeypatch.setenv("HOME", str(here / "home"))
    monkeypatch.setattr(embed, "load_model", lambda args: tiny if args.model == str(here / "home/m") else None)
    assert run(capfd, "embed", "photos", "--output=~/x.npy", "--store=~/s", "--model=~/m")[0] == 0
    assert (here / "home/x.npy").is_file()
    assert (here / "home/s").is_dir()
    assert not (here / "~").exists()


@pytest.mark.parametrize("precision", ["float32", "int8", "binary"])
def test_sizes_and_precisions(here, tiny, capfd, precision):
    args = ("embed", "texts.txt", "--precision", precision, "--truncate-dim", "64", *MODEL)
    assert run(capfd, *args, "--output", "x.npy")[0] == 0
    code, out, _ = run(capfd, *args, "--output", "x.parquet")
    assert code == 0
    assert "of which 3 were known" in out  # from the store; a text is there twice
    found = np.load("x.npy")
    expected = compress(tiny.encode(TEXTS), 64, precision).numpy()
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found.astype(float), expected.astype(float), atol=1e-6 if precision == "float32" else 0)
    table = pq.read_table("x.parquet")
    assert table["embedding"].type == pa.list_(pa.from_numpy_dtype(found.dtype), found.shape[1])
    np.testing.assert_array_equal(np.stack(table["embedding"].to_pylist()).astype(found.dtype), found)


def test_embed_goes_on(here, capfd, monkeypatch):
    """A run that was stopped leaves what it embedded in the store, and the next one embeds the rest."""
    (here / "many.txt").write_text("\n".join(f"text {number}" for number in range(1500)))
    whole = Embedder.embed_chunk
    passes = []

    def stopping(self, chunk, pictures):
        passes.append(chunk.rows)
        if sum(passes) > 1200:
            raise KeyboardInterrupt
        return whole(self, chunk, pictures)

    monkeypatch.setattr(Embedder, "embed_chunk", stopping)
    with pytest.raises(KeyboardInterrupt):
        main(["embed", "many.txt", "--output", "x.npy", *MODEL])
    assert not (here / "x.npy").exists()
    monkeypatch.setattr(Embedder, "embed_chunk", whole)
    code, out, _ = run(capfd, "embed", "many.txt", "--output", "x.npy", *MODEL)
    assert code == 0
    assert "1,500 vectors of 128 elements in float32, of which 1024 were known" in out


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["nothing.txt"], r"error: nothing.txt does not exist; give a text file, a .parquet, .jsonl or .csv file with"),
        (["photos/notes.md"], r"error: photos/notes.md is of an unknown kind; give a text file"),
        (["empty.txt"], r"error: empty.txt is empty; give a text a line"),
        (["gap.txt"], r"error: gap.txt line 2 is empty; remove it"),
        (["other.csv"], r"error: other.csv lacks the column text, image; it has words"),
        (["bare.parquet"], r"error: bare.parquet is empty: it has no rows"),
        (["neither.jsonl"], r"error: neither.jsonl row 1: an item needs a text or a picture; this one has neither"),
        (["hollow"], r"error: hollow holds no picture, at any depth: no file .jpg, "),
        (["rows.csv", "--image-dir", "hollow"], r"error: 2 of 2 pictures are missing: .*; looked in hollow; "),
        (["binary.txt"], r"error: binary.txt is in UTF-16; save it as UTF-8"),
        (["texts.txt", "--output", "x.csv"], r"error: --output x.csv is neither a .npy nor a .parquet file"),
        (["texts.txt", "--truncate-dim", "999"], r"error: vectors of 999 elements cannot be cut from the model's 128"),
        (["texts.txt", "--prompt", "hierarchial"], r"error: prompt 'hierarchial' is unknown; choose one of hier"),
        (["texts.txt", "--model", "/nowhere"], r"error: the model folder /nowhere does not exist"),
        (["texts.txt", "--model", "broken"], r"error: the model broken could not be loaded: "),
    ],
)  # fmt: skip
def test_what_embed_refuses(here, capfd, args, said):
    (here / "empty.txt").write_text("")
    (here / "gap.txt").write_text("a\n\nb")
    (here / "other.csv").write_text("words\na dog\n")
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), here / "bare.parquet")
    (here / "neither.jsonl").write_text('{"text": "a"}\n{"text": ""}')
    (here / "hollow").mkdir()
    (here / "binary.txt").write_bytes(b"\xff\xfe\x00")
    (here / "broken").mkdir()
    for file in TINY.iterdir():
        (here / "broken" / file.name).write_bytes(file.read_bytes()[:9000])
    (here / "broken/config.json").write_bytes((TINY / "config.json").read_bytes())
    code, _, err = run(capfd, "embed", "--output", "x.npy", *MODEL, *args)
    assert code == 1
    assert len(err.strip().splitlines()) == 1
    assert re.match(said, err), err
    assert not (here / "x.npy").exists()


# --- search ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("approximate", [False, True])
@pytest.mark.parametrize(
    ("query", "where"), [("a red circle", "photos"), ("photos/b.png", "photos"), ("star", "texts.txt")]
)
def test_search(here, tiny, capfd, query, where, approximate):
    code, out, _ = run(capfd, "search", query, "--in", where, "--top", "2", *MODEL, *["--approximate"] * approximate)
    assert code == 0
    given = read_inputs(here / where)
    vector = tiny.encode({"image": query} if query.endswith("png") else query)
    scores = (vector @ tiny.encode(given.items, "candidate").T)[0]
    best = scores.argsort(descending=True, stable=True)[:2]
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if "│" in line]
    assert rows == [[str(n + 1), f"{scores[i]:.4f}", given.names[i]] for n, i in enumerate(best.tolist())]
    assert f"nearest to {query}" in out


def test_a_second_search_embeds_the_query_alone(here, capfd, monkeypatch):
    embedded = []
    encode = search.Engine.encode

    def counting(self, model, items, role, *args, **options):
        encoded = encode(self, model, items, role, *args, **options)
        embedded.append((role, encoded.computed, encoded.reused))
        return encoded

    monkeypatch.setattr("gen2embed.encoding.engine.Engine.encode", counting)
    for query in ("red", "blue"):
        assert run(capfd, "search", query, "--in", "photos", *MODEL)[0] == 0
    assert embedded == [("query", 1, 0), ("candidate", 3, 0), ("query", 1, 0), ("candidate", 0, 3)]


def test_long_texts_are_cut_in_the_table(here, tiny, capfd, monkeypatch):
    monkeypatch.setattr(search, "load_model", lambda _: tiny)
    (here / "long.txt").write_text(f"red {'x' * 9000}\nblue {'y ' * 9000}\n")
    code, out, _ = run(capfd, "search", "q" * 9000, "--in", "long.txt", *MODEL)
    assert code == 0
    assert len(out) < 5000
    assert all(text in out for text in ("red", "xxx", "blue y", "qqq"))


def test_what_search_refuses(here, capfd, monkeypatch):
    for args, said in (
        (["gone.png", "--in", "photos"], "the picture 'gone.png' does not exist; --text searches for it as a text"),
        (["dog", "--in", "photos", "--top", "0"], "--top is at least 1; got 0"),
        ([" ", "--in", "photos"], "QUERY is empty; give a text or a picture's path"),
    ):
        code, _, err = run(capfd, "search", *args, *MODEL)
        assert (code, err.strip()) == (1, f"error: {said}")
    monkeypatch.setitem(sys.modules, "faiss", None)
    code, _, err = run(capfd, "search", "dog", "--in", "photos", "--approximate", *MODEL)
    assert code == 1
    assert "an approximate search needs faiss, which is not installed: pip install 'gen2embed[approximate]'" in err


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("photos/b.pngg", "does not exist (did you mean photos/b.png?); --text"),
        ("photos/b.jpgg", "does not exist"),
        ("Photos/B.PNG", "does not exist (did you mean photos/b.png?); --text"),
        ("photos\\b.png", "does not exist (did you mean photos/b.png?); --text"),
        ("my flower.jpgg", "does not exist; --text"),
        ("logo.svg", "does not exist; --text"),
        ("photos/notes.md", "is a file: no picture; --text"),
        ("cut.png", "1 of 1 pictures are unreadable: cut.png"),
        ("photo.heic", "is a file: HEIC, which cannot be read"),
        ("https://example.com/cat.jpg", "is an address; download"),
        ("file:///photos/b.png", "without file://"),
        ("data:image/png;base64,iVBORw0KGgo" + "A" * 130_000, "is a picture in base64"),
    ],
    ids=lambda value: value[:20],
)
def test_a_query_that_looks_like_a_picture_is_no_text(here, tiny, capfd, monkeypatch, query, said):
    (here / "cut.png").write_bytes((here / "photos/b.png").read_bytes()[:20])
    (here / "photo.heic").write_bytes(HEIC)
    monkeypatch.setattr(search, "load_model", lambda _: tiny)
    code, _, err = run(capfd, "search", query, "--in", "photos", *MODEL)
    assert code == 1
    assert said in err
    assert len(err) < 450
    code, out, _ = run(capfd, "search", query, "--text", "--in", "photos", *MODEL)
    assert code == 0, err
    assert "b.png" in out


@pytest.mark.parametrize(
    "query",
    ["photos", "data: what is it?", "a dog.", "e.g. a cat", "version 2.0", "and/or", "what is .net?", "dog.com"],
)
def test_a_query_that_is_a_text(here, query):
    assert search._query(query) == query
    (here / "scan").write_bytes((here / "photos/b.png").read_bytes())
    assert search._query("scan") == "scan"
    assert search._query("./scan") == {"image": here.joinpath("scan").relative_to(here)}


# --- a folder of pictures -------------------------------------------------------------------------------------------

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40)


def album(folder):
    """A folder as people have them, with links in it; the pictures that are to be read."""
    for name in ("photos/sub", "photos/.cache", "elsewhere/deep"):
        (folder / name).mkdir(parents=True)
    for name, kind in (
        ("photos/a.png", "PNG"), ("photos/b.jfif", "JPEG"), ("photos/noending", "WEBP"), ("photos/c.bak", "GIF"),
        ("photos/bitmap", "BMP"), ("photos/scan", "TIFF"), ("photos/grey", "PPM"), ("photos/sub/d.txt", "PNG"),
        ("photos/.cache/x.png", "PNG"), ("photos/.hidden.png", "PNG"), ("elsewhere/linked.png", "PNG"),
        ("elsewhere/deep/e.png", "PNG"), ("photos/raw.nef", "TIFF"),
    ):  # fmt: skip
        noise(len(name)).save(folder / name, kind)
    (folder / "photos/album").symlink_to("../elsewhere")
    (folder / "photos/again").symlink_to("../elsewhere/deep")
    (folder / "photos/elsewhere/").symlink_to("sub")
    (folder / "elsewhere/deep/up").symlink_to("..")
    (folder / "photos/sub/file.png").symlink_to("../../elsewhere/linked.png")
    (folder / "photos/sub/loop").symlink_to("loop")
    (folder / "photos/._a.png").write_bytes(b"\0\5\x16\7AppleDouble")
    (folder / "photos/phone.heic").write_bytes(HEIC)
    (folder / "photos/phone").write_bytes(HEIC)
    (folder / "photos/notes.md").write_text("P6 is a text, BM too")
    os.mkfifo(folder / "photos/pipe")
    return [
        "a.png", "again/e.png", "album/linked.png", "b.jfif", "bitmap", "c.bak", "grey", "noending", "scan",
        "sub/d.txt", "sub/file.png",
    ]  # fmt: skip


def test_a_folder_as_people_have_them(tmp_path, capfd, monkeypatch, tiny):
    expected = album(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(embed, "load_model", lambda _: tiny)
    code, out, err = run(capfd, "embed", "photos", "--output", "x.parquet", *MODEL)
    assert (code, err) == (0, "")
    table = pq.read_table("x.parquet")
    assert table["image"].to_pylist() == expected
    torch.testing.assert_close(
        torch.tensor(table["embedding"].to_pylist()),
        tiny.encode([{"image": f"photos/{name}"} for name in expected]),
        atol=1e-6, rtol=0,
    )  # fmt: skip
    assert "3 hidden (._a.png, .cache, …)" in out
    assert "3 no picture (notes.md, pipe, …)" in out
    assert "2 HEIC" in out
    assert "heif-convert" in out
    assert "3 a link to a folder that was read before" in out
    assert "1 unreadable (sub/loop)" in out
    assert "photos: 12 skipped" in out


def test_a_folder_whose_name_is_a_pictures_is_walked_and_broken_pictures_count(tmp_path):
    (tmp_path / "photos/a.png").mkdir(parents=True)
    noise(1).save(tmp_path / "photos/a.png/b.png")
    assert read_inputs(tmp_path / "photos").columns == {"image": ["a.png/b.png"]}
    for name in ("broken.jpg", "empty.png", "noending"):
        (tmp_path / "photos" / name).write_bytes(b"\xff\xd8\xff" if name != "empty.png" else b"")
    (tmp_path / "photos/gone.png").symlink_to("nowhere.png")
    with pytest.raises(UserError, match=r"1 of 5 pictures are missing: .*gone\.png"):
        read_inputs(tmp_path / "photos")
    (tmp_path / "photos/gone.png").unlink()
    with pytest.raises(UserError, match=r"3 of 4 pictures are unreadable: .*broken\.jpg, .*empty\.png, .*noending"):
        read_inputs(tmp_path / "photos")


def test_a_folder_that_cannot_be_listed_is_counted(tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()
    noise(1).save(tmp_path / "a.png")
    listdir = os.listdir

    def refusing(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return listdir(path)

    monkeypatch.setattr(os, "listdir", refusing)
    given = read_inputs(tmp_path)
    assert given.columns == {"image": ["a.png"]}
    assert "1 unreadable (closed)" in given.skipped
    assert given.concerning


@pytest.mark.parametrize("text", ["GIF89a is a format", "P3 10 20 is a model"])
def test_a_text_that_begins_as_a_picture_does_is_a_text(tmp_path, text):
    (tmp_path / "a.txt").write_text(f"{text}\n")
    assert read_inputs(tmp_path / "a.txt").columns == {"text": [text]}


def test_a_name_that_is_not_utf8(here, tiny, capfd, monkeypatch):
    """As old archives leave them; a terminal that takes no other bytes shows their numbers."""
    for module in (embed, search):
        monkeypatch.setattr(module, "load_model", lambda _: tiny)
    try:
        for name in (b"caf\xe9.png", b"caf\xe9.bin"):
            here.joinpath("photos", os.fsdecode(name)).write_bytes(
                (here / "photos/b.png").read_bytes()[:: 1 if b"png" in name else -1]
            )
    except OSError:
        pytest.skip("a file system of UTF-8 alone")
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="strict")
    code, out, _ = run(capfd, "embed", "photos", "--output", "x.npy", *MODEL)
    assert code == 0
    assert "caf\\udce9.bin" in out
    written = os.fsdecode(b"caf\xe9.npy")
    assert run(capfd, "embed", "photos", "--output", written, *MODEL)[0] == 0
    assert (here / written).is_file()
    code, out, _ = run(capfd, "search", "red", "--in", "photos", *MODEL)
    assert code == 0
    assert "caf\\udce9.png" in out
    code, _, err = run(capfd, "embed", "photos", "--output", "x.parquet", *MODEL)
    assert code == 1
    assert re.match(r"error: .*caf\\udce9.png.* is not UTF-8; rename", err)


def test_a_single_input_is_known_by_its_content(tmp_path):
    noise(1).save(tmp_path / "scan", "PNG")
    noise(1).save(tmp_path / "photo.jfif", "JPEG")
    (tmp_path / "phone.heic").write_bytes(HEIC)
    (tmp_path / "words").write_text("one\ntwo\n")
    assert read_inputs(tmp_path / "scan").columns == {"image": ["scan"]}
    assert read_inputs(tmp_path / "photo.jfif").columns == {"image": ["photo.jfif"]}
    assert read_inputs(tmp_path / "words").columns == {"text": ["one", "two"]}
    with pytest.raises(UserError, match=r"phone.heic is HEIC, which cannot be read"):
        read_inputs(tmp_path / "phone.heic")
    with pytest.raises(UserError, match=r"word does not exist \(did you mean .*words\?\)"):
        read_inputs(tmp_path / "word")


# --- the command line -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_the_docstring(capfd, name):
    code, out, _ = run(capfd, name, "--help")
    assert code == 0
    assert COMMANDS[name].__doc__.strip() in out
    assert COMMANDS[name].__doc__.splitlines()[0].rstrip(".") in " ".join(run(capfd, "--help")[1].split())


def test_what_the_command_line_does_not_take(capfd):
    for args in ((), ("embedd",), ("embed", "x.txt", "--output", "x.npy"), ("embed", "x", "--role", "document")):
        code, _, err = run(capfd, *args)
        assert code == 2
        assert "usage: python -m gen2embed" in err
    assert STORE.parts == ("outputs", "embeddings")
