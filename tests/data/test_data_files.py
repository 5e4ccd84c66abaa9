"""Files as people have them: encodings, line ends, blank lines, shards, hidden files, and where pictures lie."""

import json
import logging
import os
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gen2embed import UserError
from gen2embed.cli.commands.inputs import read_inputs
from gen2embed.data.locate import LISTED_FROM, locate_pictures, picture_roots
from gen2embed.data.mmeb import read_custom, read_mmeb
from gen2embed.data.pairs import Files, Mmeb
from gen2embed.data.sugarcrepe import read_sugarcrepe
from gen2embed.data.text_files import read_lines

KEYS = ("qry", "qry_image_path", "pos_text", "pos_image_path")
MARK = "\ufeff"


def row(number, **values):
    return {"qry": f"q{number}", "qry_image_path": "", "pos_text": f"p{number}", "pos_image_path": "", **values}


def task_row(number, **values):
    targets = {"tgt_text": [f"a{number}", f"b{number}"], "tgt_img_path": ["", ""]}
    return {"qry_text": f"q{number}", "qry_img_path": "", **targets, **values}


def jsonl(file, rows, between="\n", **options):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(between.join(json.dumps(value) for value in rows).encode(options.get("encoding", "utf-8")))
    return file


def queries(path, **options):
    return [pair.query.texts[0] for pair in Files(path=path, **options).pairs()]


# --- texts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_end_as_systems_end_them_and_nowhere_else(tmp_path, end):
    lines = ["first", "a\u2028b", "a\u2029b", "a\x0cb", "a\x0bb", "a\x85b", "a\x1cb\x1db\x1eb", "last"]
    file = tmp_path / "a.txt"
    for text in (end.join(lines), end.join(lines) + end, MARK + end.join(lines)):
        file.write_bytes(text.encode())
        assert read_lines(file) == lines
        assert read_inputs(file).columns == {"text": lines}
    joined = tmp_path / "joined.txt"  # as cat joins files
    joined.write_text(f"{MARK}a\n{MARK}b\n", encoding="utf-8")
    assert read_lines(joined) == ["a", "b"]


def written(folder):
    """Every kind of text file that a user writes: what reads it, and a text that it holds."""
    pairs, tasks = [row(n) for n in range(3)], [task_row(n) for n in range(3)]
    fields = "\n".join([",".join(KEYS), *(",".join(pair.values()) for pair in pairs)])
    crepe = [{"filename": "x.png", "caption": "a", "negative_caption": "b"}]
    return {
        "a.txt": ("one\ntwo\n", read_inputs),
        "a.jsonl": ("\n".join(map(json.dumps, pairs)), lambda file: Files(path=file).pairs()),
        "a.csv": (fields, lambda file: Files(path=file).pairs()),
        "b.jsonl": ("\n".join(map(json.dumps, tasks)), read_custom),
        "add_att.json": (json.dumps(crepe), lambda file: read_sugarcrepe(folder, folder, {"add": ["add_att"]})),
    }


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv", "b.jsonl", "add_att.json"])
def test_a_byte_order_mark_is_no_text_and_other_encodings_are_named(tmp_path, name):
    text, read = written(tmp_path)[name]
    (tmp_path / "x.png").touch()
    file = tmp_path / name
    file.write_text(text, encoding="utf-8")
    expected = str(read(file))
    file.write_text(MARK + text, encoding="utf-8")
    assert str(read(file)) == expected
    assert MARK not in expected
    for encoding in ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"):
        file.write_bytes(text.encode(encoding))
        with pytest.raises(UserError, match=rf"{name} is in {encoding[:6].upper()}; save it as UTF-8"):
            read(file)
    file.write_bytes(text.encode() + b"\xe9t\xe9")
    with pytest.raises(UserError, match=f"{name}"):
        read(file)


def test_nul_bytes_are_no_text(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"one\ntw\0o\n")
    with pytest.raises(UserError, match=r"a.txt line 2 holds a NUL byte"):
        read_inputs(tmp_path / "a.txt")
    (tmp_path / "a.csv").write_bytes(",".join(KEYS).encode() + b"\na,,b,\nc,,d\0d,\n")
    with pytest.raises(UserError, match=r"a.csv row 1 holds a NUL byte"):
        Files(path=tmp_path / "a.csv").pairs()


# --- lists that are written as texts --------------------------------------------------------------------------------

LIKE_JSON = ["[10, 20, 30, 40]", '["c", "d"]', "[]", '[["a"]]', "[bold] words", '{"a": 1}']


def negatives(path):
    return [[str(item.texts[0]) for item in pair.negatives] for pair in Files(path=path, negatives=True).pairs()]


def test_a_text_that_looks_like_json_is_a_text(tmp_path):
    rows = [row(n, qry=text, pos_text=text, neg_text=text, neg_image_path="") for n, text in enumerate(LIKE_JSON)]
    jsonl(tmp_path / "a.jsonl", rows)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "b.parquet")
    for name in ("a.jsonl", "b.parquet"):
        assert negatives(tmp_path / name) == [[text] for text in LIKE_JSON]
        pairs = Files(path=tmp_path / name).pairs()
        assert [(pair.query.texts, pair.positive.texts) for pair in pairs] == [((text,), (text,)) for text in LIKE_JSON]


def test_a_csv_has_lists_of_texts_as_json_and_no_others(tmp_path):
    file = tmp_path / "a.csv"
    quoted = ['"' + text.replace('"', '""') + '"' for text in LIKE_JSON]
    lines = [",".join([*KEYS, "neg_text", "neg_image_path"]), *(f"q,,p,,{field}," for field in quoted)]
    file.write_text("\n".join(lines))
    assert negatives(file) == [["[10, 20, 30, 40]"], ["c", "d"], [], ['[["a"]]'], ["[bold] words"], ['{"a": 1}']]


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_targets_are_a_list_and_no_text_that_looks_like_one(tmp_path, kind):
    rows = [task_row(0, tgt_text='["a", "b"]')]
    file = tmp_path / f"t.{kind}"
    jsonl(file, rows) if kind == "jsonl" else pq.write_table(pa.Table.from_pylist(rows), file)
    with pytest.raises(UserError, match=r"row 0: tgt_text is not a list of texts but str"):
        read_custom(file)


@pytest.mark.parametrize("value", [b"\x89PNG", {"bytes": b"\x89PNG", "path": None}])
def test_a_picture_inside_of_a_table_is_named(tmp_path, value):
    pq.write_table(pa.Table.from_pylist([row(0, qry_image_path=value)]), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"row 0: qry_image_path is not a text but .* of a picture: write it to a file"):
        Files(path=tmp_path / "a.parquet").pairs()


# --- two files of one name, and hidden ones -------------------------------------------------------------------------


@pytest.mark.parametrize(("first", "second"), [("a.csv", "a.jsonl"), ("a.jsonl", "a.parquet"), ("a.JSONL", "a.csv")])
def test_two_files_of_one_subset_are_an_error(tmp_path, first, second):
    for name in (first, second, "b.csv"):
        (tmp_path / name).touch()
    for read in (lambda: Files(path=tmp_path).pairs(), lambda: read_custom(tmp_path)):
        with pytest.raises(UserError, match=rf"(?=.*{first})(?=.*{second}).*remove or rename"):
            read()


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("t/test.jsonl", "t.jsonl"),
        ("t.parquet", "t.jsonl"),
        ("t/test-00000-of-00001.parquet", "t/test.parquet"),
        ("t/test-00000-of-00001.parquet", "t/test-00001-of-00002.parquet"),
        ("t/test-00000-of-00001.parquet", "t/test-more.parquet"),
    ],
)
def test_two_layouts_of_one_subset_are_an_error(tmp_path, first, second):
    for name in (first, second):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.touch()
    with pytest.raises(UserError, match=rf"(?=.*{first})(?=.*{second}).*remove or rename"):
        read_mmeb(str(tmp_path), tmp_path, {"g": ["t"]})


def test_a_shard_that_is_not_there_is_missed(tmp_path):
    (tmp_path / "t").mkdir()
    pq.write_table(pa.Table.from_pylist([task_row(0)]), tmp_path / "t/test-00000-of-00002.parquet")
    with pytest.raises(UserError, match=r"t holds 1 of 2 shards"):
        read_mmeb(str(tmp_path), tmp_path, {"g": ["t"]})


def test_names_are_no_patterns(tmp_path):
    jsonl(tmp_path / "a[1]/test.jsonl", [task_row(0)])
    jsonl(tmp_path / "a1/test.jsonl", [task_row(9)])
    assert read_mmeb(str(tmp_path), tmp_path, {"g": ["a[1]"]}).tasks[0].queries[0].texts == ("q0",)


def test_hidden_files_are_no_data(tmp_path, caplog):
    jsonl(tmp_path / "a.jsonl", [row(1)])
    jsonl(tmp_path / ".a.jsonl", [row(9)])
    (tmp_path / "._a.jsonl").write_bytes(b"\0\5\x16\7AppleDouble")
    jsonl(tmp_path / ".ipynb_checkpoints/a-checkpoint.jsonl", [row(9)])
    with caplog.at_level(logging.INFO):
        assert queries(tmp_path) == ["q1"]
    assert "2 hidden files are skipped" in caplog.text
    assert picture_roots(tmp_path) == [tmp_path]
    for file in tmp_path.glob("*.jsonl"):
        file.unlink()
    with pytest.raises(UserError, match=r"holds no \.parquet, \.jsonl or \.csv file"):
        queries(tmp_path)


# --- shards, and lines without a row --------------------------------------------------------------------------------


def table(rows, **types):
    table = pa.Table.from_pylist(rows)
    for name, kind in types.items():
        at = table.column_names.index(name)
        table = table.set_column(at, name, table[name].cast(kind))
    return table


def test_shards_whose_schemas_differ_harmlessly(tmp_path):
    """Only the wanted columns are read, whatever type of text each shard has."""
    large, views = pa.large_string(), pa.string_view()
    shards = [
        table([row(0, qry_image_path=None, pos_image_path=None)]),
        table([row(1)], qry=large, pos_text=pa.dictionary(pa.int32(), pa.string())),
        table([row(2)], qry=views).select(list(reversed(KEYS))),
        table([row(3, more=1)]).append_column("other", pa.array([{"a": [1]}])),
        table([row(4, more="x")]),
    ]
    (tmp_path / "t").mkdir()
    for number, shard in enumerate(shards):
        pq.write_table(shard, tmp_path / f"t/original-{number:05}-of-00005.parquet")
    source = Mmeb(path=str(tmp_path), image_dir=tmp_path, subsets=["t"])
    pairs = source.pairs()
    assert [(pair.row, pair.query.texts, pair.positive.texts) for pair in pairs] == [
        (n, (f"q{n}",), (f"p{n}",)) for n in range(5)
    ]
    pq.write_table(table([row(2)]).drop_columns("pos_text"), tmp_path / "t/original-00002-of-00005.parquet")
    with pytest.raises(UserError, match=r"original-00002-of-00005.parquet lacks the column pos_text, which 4 shards"):
        source.pairs()
    (tmp_path / "t/original-00002-of-00005.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"original-00002-of-00005.parquet is not a parquet file that can be read"):
        source.pairs()


def test_blank_lines_are_skipped_and_counted(tmp_path, caplog):
    """Rows keep the numbers of their lines."""
    lines = ["", json.dumps(row(1)), " \t", json.dumps(row(3)), "", ""]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    fields = [",".join(KEYS), "", "q1,,p1,", "   ", "q3,,p3,", "", ""]
    (tmp_path / "b.csv").write_text("\n".join(fields))
    with caplog.at_level(logging.INFO):
        pairs = Files(path=tmp_path).pairs()
    assert [(pair.subset, pair.row, pair.query.texts[0]) for pair in pairs] == [
        ("a", 1, "q1"), ("a", 3, "q3"), ("b", 1, "q1"), ("b", 3, "q3"),
    ]  # fmt: skip
    assert "a.jsonl: 3 blank lines are skipped" in caplog.text
    assert "b.csv: 3 blank lines are skipped" in caplog.text
    refused = {}
    (tmp_path / "a.jsonl").write_text("\n".join([*lines, "{"]))
    read = Files(path=tmp_path / "a.jsonl").read(lambda _: refused)
    assert [pair.row for pair in read] == [1, 3]
    assert list(refused) == [6]


@pytest.mark.parametrize("content", [b"", b"\n\n", MARK.encode(), b"qry,qry_image_path,pos_text,pos_image_path\n"])
def test_an_empty_file_is_named(tmp_path, content):
    for name in ("a.jsonl", "a.csv"):
        file = tmp_path / name
        file.write_bytes(content)
        if name == "a.jsonl" and content.startswith(b"qry"):
            continue
        with pytest.raises(UserError, match=rf"{name} is empty: it has no rows"):
            Files(path=file).pairs()


def test_a_column_that_is_there_twice_is_named(tmp_path):
    (tmp_path / "a.csv").write_text(",".join([*KEYS, "qry"]) + "\na,,b,,c\n")
    with pytest.raises(UserError, match=r"a.csv has 2 columns qry"):
        Files(path=tmp_path / "a.csv").pairs()


# --- where pictures lie ---------------------------------------------------------------------------------------------


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)  # each its own content


def test_a_name_that_two_folders_hold_is_ambiguous(tmp_path):
    touch(tmp_path, "train/0001.png", "val/0001.png", "val/0002.png", "0003.png", "val/0003.png")
    locate = locate_pictures(tmp_path, ["0001.png", "0002.png", "0003.png"])
    assert locate("0002.png") == tmp_path / "val/0002.png"
    assert locate("0003.png") == tmp_path / "0003.png"  # as it is written
    with pytest.raises(UserError, match=r"'0001.png' lies in 2 folders: .*train/0001.png, .*val/0001.png;.*image_dir"):
        locate("0001.png")
    at_home = locate_pictures(tmp_path, ["0001.png"], home=tmp_path / "val")
    assert at_home("0001.png") == tmp_path / "val/0001.png"
    with pytest.raises(UserError, match="lies in 2 folders"):
        locate_pictures(tmp_path, ["0001.png"], home=tmp_path / "elsewhere")("0001.png")


def test_one_file_by_two_ways_is_not_ambiguous(tmp_path):
    touch(tmp_path, "train/0001.png")
    (tmp_path / "again").symlink_to(tmp_path / "train")
    (tmp_path / "copy").mkdir()
    os.link(tmp_path / "train/0001.png", tmp_path / "copy/0001.png")
    assert locate_pictures(tmp_path, ["0001.png"])("0001.png").samefile(tmp_path / "train/0001.png")


@pytest.mark.parametrize("count", [3, 2 * LISTED_FROM])
def test_every_name_is_looked_for(tmp_path, count):
    """However many there are: those that lie elsewhere than the first, and those that are ambiguous."""
    names = [f"x/{n}.png" for n in range(count)]
    touch(tmp_path, *(f"a/{name}" for name in names[:-2]), *(f"b/{name}" for name in names[-2:]), f"a/{names[-1]}")
    locate = locate_pictures(tmp_path, names)
    expected = {name: tmp_path / ("a" if number < count - 2 else "b") / name for number, name in enumerate(names[:-1])}
    assert {name: locate(name) for name in names[:-1]} == expected
    with pytest.raises(UserError, match="lies in 2 folders"):
        locate(names[-1])


def test_folders_are_listed_once(tmp_path, monkeypatch):
    """Not a look at each file: 600,000 rows take seconds."""
    names = [f"{n}.png" for n in range(10 * LISTED_FROM)]
    touch(tmp_path, *(f"a/{name}" for name in names))
    looked = []
    isfile, scandir = os.path.isfile, os.scandir
    monkeypatch.setattr(os.path, "isfile", lambda path: looked.append(path) or isfile(path))
    monkeypatch.setattr(os, "scandir", lambda path: looked.append(path) or scandir(path))
    assert locate_pictures(tmp_path, names)("7.png") == tmp_path / "a/7.png"
    assert len(looked) < 10


@pytest.mark.parametrize("read", ["pairs", "custom", "mmeb", "sugarcrepe", "items"])
def test_every_reader_refuses_an_ambiguous_name(tmp_path, read):
    touch(tmp_path, "images/train/1.png", "images/val/1.png")
    images = tmp_path / "images"
    jsonl(tmp_path / "pairs.jsonl", [row(0), row(1, qry_image_path="1.png")])
    jsonl(tmp_path / "tasks/t.jsonl", [task_row(0), task_row(1, tgt_img_path=["1.png", ""])])
    (tmp_path / "add_att.json").write_text(json.dumps([{"filename": "1.png", "caption": "a", "negative_caption": "b"}]))
    jsonl(tmp_path / "items.jsonl", [{"text": "a", "image": "1.png"}])
    readers = {
        "pairs": lambda: Files(path=tmp_path / "pairs.jsonl", image_dir=images).pairs(),
        "custom": lambda: read_custom(tmp_path / "tasks", images),
        "mmeb": lambda: read_mmeb(str(tmp_path / "tasks"), images, {"g": ["t"]}),
        "sugarcrepe": lambda: read_sugarcrepe(tmp_path, images, {"add": ["add_att"]}),
        "items": lambda: read_inputs(tmp_path / "items.jsonl", images),
    }
    with pytest.raises(UserError, match=r"(row|target) .*'1.png' lies in 2 folders: .*train/1.png, .*val/1.png"):
        readers[read]()


def test_the_folder_of_the_rows_wins(tmp_path):
    touch(tmp_path, "train/1.png", "val/1.png")
    file = jsonl(tmp_path / "val/rows.jsonl", [row(0, qry_image_path="1.png")])
    (pair,) = Files(path=file, image_dir=tmp_path).pairs()
    assert pair.pictures[0].source == tmp_path / "val/1.png"


NAMES = [
    ("https://example.com/cat.jpg", "is an address; download"),
    ("s3://bucket/cat.jpg", "is an address; download"),
    ("file:///photos/a.png", "without file://"),
    ("data:image/png;base64," + "iVBORw0KGgo" + "A" * 130_000, "is a picture in base64; write"),
    ("iVBORw0KGgo" + "A" * 130_000, "is a picture in base64; write"),
    ("C:\\photos\\a.png", "is a path of Windows"),
    ("img\\a.png", "but img/a.png does"),
    ("img\\none.png", "has backslashes; write /"),
    ("IMG/A.PNG", "but img/a.png does"),
]


@pytest.mark.parametrize(("name", "message"), NAMES, ids=[name[:24] for name, _ in NAMES])
def test_names_that_are_no_names_of_files_here(tmp_path, name, message):
    touch(tmp_path, "img/a.png")
    file = jsonl(tmp_path / "a.jsonl", [row(0), row(1, qry_image_path=name)])
    with pytest.raises(UserError) as error:
        Files(path=file).pairs()
    assert message in str(error.value)
    assert "a.jsonl row 1" in str(error.value)
    assert len(str(error.value).replace(str(tmp_path), "")) < 420


def test_names_in_another_form_of_unicode_are_found(tmp_path, caplog):
    """macOS writes `é` as two characters, other systems as one; a name as it is written goes first."""
    touch(tmp_path, "img/e\u0301.png", "b/\xfc.png", "b/u\u0308.png", "b/\xe8.png", "img/plain.png")
    names = ["img/\xe9.png", "\xfc.png", "e\u0300.png", "img/plain.png"]
    with caplog.at_level(logging.INFO):
        locate = locate_pictures(tmp_path, names)
    names = ["img/e\u0301.png", "b/\xfc.png", "b/\xe8.png", "img/plain.png"]
    assert [locate(name) for name in names] == [tmp_path / name for name in names]
    assert "2 picture names are in another form of Unicode" in caplog.text


# --- rows that vanish ------------------------------------------------------------------------------------------------

HEADER = ",".join(KEYS) + "\n"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n"


@pytest.mark.parametrize(
    ("lines", "number"),
    [
        ('a,,b,\nc,,"5 inch,\nd,,e,\nf,,g,\n', 1),  # the quote takes the rows after it into its field
        ('a,,b,\n"He" said so,,c,\nd,,e,\n', 1),
        ('"say \\"hi\\", now",,b,\n', 0),
    ],
)
def test_a_quote_in_a_csv_takes_no_rows_away(tmp_path, lines, number):
    (tmp_path / "a.csv").write_text(HEADER + lines)
    with pytest.raises(UserError, match=rf"a.csv row {number}: .*quote"):
        Files(path=tmp_path / "a.csv").pairs()
    (tmp_path / "a.csv").write_bytes((MARK + HEADER).encode() + b'"a\r\nb ""c""",,"d, e",\r\nf,,g,\r\n')
    assert queries(tmp_path / "a.csv") == ['a\r\nb "c"', "f"]


def test_a_key_that_is_there_twice_is_named(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"qry": "a", "qry": "b", "qry_image_path": "", "pos_text": "", "x": {}}')
    with pytest.raises(UserError, match=r"a.jsonl row 0 .*'qry' twice"):
        Files(path=tmp_path / "a.jsonl").pairs()
    crepe = '{"filename": "x.png", "caption": "a", "negative_caption": "b"}'
    (tmp_path / "add_att.json").write_text(f'{{"0": {crepe}, "0": {crepe}}}')
    with pytest.raises(UserError, match=r"add_att.json .*'0' twice"):
        read_sugarcrepe(tmp_path, tmp_path, {"add": ["add_att"]})


def parts(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        pq.write_table(table([row(number)]), folder / name)


@pytest.mark.parametrize("chosen", [".", "x.parquet"])
def test_a_table_in_parts_is_one_subset(tmp_path, chosen):
    names = [f"part-{number:05}-1a2b-c000.snappy.parquet" for number in range(3)]
    parts(tmp_path / "x.parquet", *names)
    for name in ("_SUCCESS", "._SUCCESS.crc"):
        (tmp_path / "x.parquet" / name).touch()
    pairs = Files(path=tmp_path / chosen).pairs()
    assert [(pair.subset, pair.row, pair.query.texts[0]) for pair in pairs] == [("x", n, f"q{n}") for n in range(3)]
    assert len(Mmeb(path=str(tmp_path), image_dir=tmp_path, subsets=["x"]).pairs()) == 3
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "x.parquet" / names[0])
    for name in names[1:]:
        pq.write_table(pa.table({"text": [name]}), tmp_path / "x.parquet" / name)
    assert read_inputs(tmp_path / "x.parquet").columns["text"] == ["a", *names[1:]]


def test_shards_in_a_folder_are_one_subset(tmp_path):
    names = [f"train-{number:05}-of-00002.parquet" for number in range(2)]
    parts(tmp_path, *names, "b.parquet")
    pairs = Files(path=tmp_path).pairs()
    assert [(pair.subset, pair.query.texts[0]) for pair in pairs] == [("b", "q2"), ("train", "q0"), ("train", "q1")]
    assert queries(tmp_path / names[1]) == ["q1"]
    (tmp_path / names[0]).unlink()
    with pytest.raises(UserError, match=r"1 of 2 shards.*download"):
        Files(path=tmp_path).pairs()
    (tmp_path / "train.csv").write_text(HEADER)
    with pytest.raises(UserError, match=r"(?=.*train-00001)(?=.*train.csv).*remove or rename"):
        Files(path=tmp_path).pairs()


def test_files_that_are_not_read_are_counted(tmp_path, caplog):
    caplog.set_level(logging.WARNING, "gen2embed")
    jsonl(tmp_path / "a.jsonl", [row(0)])
    touch(tmp_path, "README.md", "x.png", "photos/x.png")
    assert len(Files(path=tmp_path).pairs()) == 1
    assert not caplog.messages
    touch(tmp_path, "b.json", "c.tsv", "d.jsonl.gz", "more/e.jsonl")
    assert len(Files(path=tmp_path).pairs()) == 1
    assert [("3 files" in text, "1 folder" in text) for text in caplog.messages] == [(True, False), (False, True)]


def test_columns_that_are_not_read_are_named_where_one_is_missing(tmp_path, caplog):
    caplog.set_level(logging.WARNING, "gen2embed")
    for rows, unread in (([{"text": "a"}], []), ([{"text": "a", "img": "x.png"}], ["img"])):
        caplog.clear()
        assert read_inputs(jsonl(tmp_path / "a.jsonl", rows)).columns["image"] == [""]
        assert [name for name in ("img",) for message in caplog.messages if name in message] == unread


def test_a_subset_that_is_called_classification_is_there(tmp_path):
    jsonl(tmp_path / "tags.jsonl", [row(0)])
    assert queries(tmp_path, classification=["tags"]) == ["q0"]
    with pytest.raises(UserError, match=r"no subset tag; .*did you mean tags"):
        queries(tmp_path, classification=["tag"])


def test_negatives_that_are_not_read_are_said(tmp_path, caplog):
    caplog.set_level(logging.WARNING, "gen2embed")
    jsonl(tmp_path / "a.jsonl", [row(0, neg_text=["a"], neg_image_path=None)])
    assert Files(path=tmp_path, negatives=True).pairs()[0].negatives
    assert not caplog.messages
    assert not Files(path=tmp_path).pairs()[0].negatives
    assert ["data.negatives=true" in message for message in caplog.messages] == [True]


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.parquet", "a.txt", "a.png"])
def test_a_pointer_of_git_lfs_is_no_data(tmp_path, name):
    (tmp_path / name).write_bytes(POINTER)
    with pytest.raises(UserError, match=rf"{name}.*git lfs pull"):
        read_inputs(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", json.dumps([row(0), row(1)]), "one JSON object a line, as `jq"),
        ("a.jsonl", json.dumps([row(0), row(1)], indent=1), "one JSON object a line, as `jq"),
        ("a.jsonl", json.dumps(row(0), indent=1), "one JSON object a line"),
        ("a.csv", HEADER.replace(",", ";"), "write commas for semicolons"),
        ("a.csv", HEADER.replace(",", "\t"), "write commas for tabs"),
        ("a.json", "[]", "convert it"),
    ],
)
def test_files_of_another_form_have_a_remedy(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=re.escape(message)) as error:
        Files(path=tmp_path / name).pairs()
    assert len(str(error.value).replace(str(tmp_path), "")) < 200


def test_texts_as_bytes_are_told_from_pictures(tmp_path):
    pq.write_table(pa.Table.from_pylist([row(0, qry=b"a dog")]), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"row 0: qry .*store the column as strings"):
        Files(path=tmp_path / "a.parquet").pairs()
