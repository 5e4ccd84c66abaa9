"""No command and no run loses what it did not write, whatever stands where its output is to be."""

import contextlib
import os
import resource
import signal
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY
from places import PLACES, PRECIOUS, file, folder, lost, permissions_count, tree

from gen2embed import Embedder, UserError
from gen2embed.__main__ import main
from gen2embed.export.write import ExportSource, export
from gen2embed.model.adapter import Lora, save
from gen2embed.outputs.paths import check_file, check_folder, replace_folder, write_file
from gen2embed.outputs.record import RECORD, append, is_written
from gen2embed.utils.files import write_atomic

BEFORE_A_FOLDER = {*PLACES} - {"a link to a file", "a file"}  # for an output that is a file
MODEL = ("--model", TINY, "--resolution", "original")


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A folder that is all somebody's, and the working folder in it, which is not empty."""
    folder(tmp_path / "work")
    (tmp_path / "texts.txt").write_text("a red circle\n")
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path


@pytest.fixture
def no_model(monkeypatch):
    """What is refused is refused before a model is loaded."""

    def load(*_, **__):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(Embedder, "from_pretrained", load)


def refusal(capfd, *args):
    """The message with which a command ends."""
    capfd.readouterr()
    with permissions_count():
        code = main([str(arg) for arg in args])
    err = capfd.readouterr().err
    assert code == 1, err
    assert err.startswith("error: "), err
    return err


# --- what is there already ------------------------------------------------------------------------------------------

COMMANDS = {
    "embed": lambda root, output: ("embed", root / "texts.txt", *MODEL, "--output", output),
    "report": lambda root, output: ("report", root / "run", "--output", output),
    "export": lambda root, output: ("export", "merged", "--model", TINY, "--output", output),
}
SUFFIXES = {"embed": ".npy", "report": ".html", "export": ""}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_refuses(root, no_model, capfd, command, place):
    output = PLACES[place](root / f"out{SUFFIXES[command]}")
    before = tree(root)
    err = refusal(capfd, *COMMANDS[command](root, output))
    assert tree(root) == before
    assert str(output).rstrip("/")[-20:] in err or str(Path(output).parent) in err or place.startswith("below")


@pytest.mark.parametrize("place", ["a file", "a link to a file", "below a file", "a folder that may not be written",
                                   "below a link that leads nowhere", "a link into a folder that is gone"])  # fmt: skip
@pytest.mark.parametrize("command", ["embed", "search"])
def test_a_store_that_cannot_be(root, no_model, capfd, command, place):
    store = PLACES[place](root / "store")
    before = tree(root)
    args = {
        "embed": ("embed", root / "texts.txt", *MODEL, "--output", root / "x.npy"),
        "search": ("search", "a star", "--in", root / "texts.txt", *MODEL),
    }[command]
    assert "store" in refusal(capfd, *args, "--store", store) or place == "a folder that may not be written"
    assert tree(root) == before


def test_a_store_beside_what_is_there(root, tiny, monkeypatch, capfd):
    """It adds a folder of its own."""
    monkeypatch.setattr(Embedder, "from_pretrained", lambda *_, **__: tiny)
    folder(root / "store")
    before = tree(root)
    args = ("search", "a star", "--in", root / "texts.txt", *MODEL, "--store", root / "store")
    assert main([str(arg) for arg in args]) == 0
    assert not lost(before, tree(root))


@pytest.mark.parametrize("suffix", [".npy", ".parquet"])
def test_embed_again(root, tiny, monkeypatch, capfd, suffix):
    """The same command replaces what it wrote, unless somebody has changed it; a link stays one."""
    monkeypatch.setattr(Embedder, "from_pretrained", lambda *_, **__: tiny)
    output, target = root / f"v{suffix}", root / "elsewhere" / f"w{suffix}"
    target.parent.mkdir()
    output.symlink_to(target)  # which dangles
    args = ["embed", str(root / "texts.txt"), *map(str, MODEL), "--output", str(output), "--store", str(root / "s")]
    before = tree(root)
    assert main(args) == 0
    assert not lost(before, tree(root))
    assert target.stat().st_size
    (root / "texts.txt").write_text("a red circle\na blue star\n")
    first = target.read_bytes()
    assert main(args) == 0
    assert output.is_symlink()
    assert target.read_bytes() != first
    target.write_text(PRECIOUS)
    assert "move it away" in refusal(capfd, *args)
    assert target.read_text() == PRECIOUS


# --- an input as the output -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["itself", "link", "hard link", "dots", "relative"])
def test_embed_over_its_input(root, tiny, monkeypatch, capfd, way):
    """Also where `embed` wrote the input itself."""
    monkeypatch.setattr(Embedder, "from_pretrained", lambda *_, **__: tiny)
    rows = root / "rows.parquet"
    made = ["embed", str(root / "texts.txt"), *map(str, MODEL), "--store", str(root / "s"), "--output"]
    assert main([*made, str(rows)]) == 0
    output = root / "again.parquet"
    if way == "link":
        output.symlink_to(rows)
    elif way == "hard link":
        os.link(rows, output)
        append(root, {"name": "again.parquet", "by": "embed", "digest": _recorded(rows)})
    else:
        output = {"itself": rows, "dots": root / "work/../rows.parquet", "relative": "../rows.parquet"}[way]
    before = tree(root)
    args = ("embed", rows, *MODEL, "--store", root / "s", "--output", output)
    assert "input" in refusal(capfd, *args)
    assert tree(root) == before


def _recorded(path):
    from gen2embed.outputs.record import read_record

    return next(line["digest"] for line in read_record(path.parent) if line["name"] == path.name)


@pytest.mark.parametrize("name", ["", "new", "deep/new", ".."])
def test_no_export_in_its_model(root, no_model, capfd, name):
    model = folder(root / "models/model")
    before = tree(root)
    message = refusal(capfd, "export", "merged", "--model", model, "--output", model / name)
    assert "input" in message or "not empty" in message
    assert tree(root) == before


def test_no_saved_model_in_its_own(tmp_path, tiny):
    base = tmp_path / "base"
    tiny.save_pretrained(base)
    embedder = Embedder.from_pretrained(base, device="cpu")
    before = tree(tmp_path)
    for where in (base, base / "copy", tmp_path):
        with pytest.raises(UserError, match=r"input|not empty"):
            embedder.save_pretrained(where)
    assert tree(tmp_path) == before


# --- folders --------------------------------------------------------------------------------------------------------


def test_a_folder_with_something_more_is_kept(tmp_path):
    """Or with something edited; it is replaced again when it is as it was written."""
    made = tmp_path / "made"
    replace_folder(made, lambda its: (its / "weights").write_text("1"))
    for name in ("notes.txt", "weights", "nested/notes.txt"):
        content = (made / name).read_text() if (made / name).exists() else None
        (made / name).parent.mkdir(exist_ok=True)
        (made / name).write_text(PRECIOUS)
        before = tree(tmp_path)
        with pytest.raises(UserError, match="move it away"):
            replace_folder(made, lambda its: (its / "weights").write_text("2"))
        assert not lost(before, tree(tmp_path))
        (made / name).unlink() if content is None else (made / name).write_text(content)
    (made / "nested").rmdir()
    replace_folder(made, lambda its: (its / "weights").write_text("2"))
    assert (made / "weights").read_text() == "2"


def test_what_replaces_a_folder_fails_at_the_end(tmp_path, monkeypatch):
    """The folder of before comes back."""
    made = tmp_path / "made"
    replace_folder(made, lambda its: (its / "weights").write_text("1"))
    before = tree(made)
    monkeypatch.setattr("gen2embed.outputs.paths.put_in_place", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(OSError, match="space"):
        replace_folder(made, lambda its: (its / "weights").write_text("2"))
    assert tree(made) == before


def test_an_empty_folder_keeps_its_mode_and_its_link(tmp_path):
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to("real")
    replace_folder(check_folder(tmp_path / "link"), lambda its: (its / "weights").write_text("1"), by=None)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real/weights").read_text() == "1"
    assert (tmp_path / "real").stat().st_mode & 0o777 == 0o700


def test_home_and_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert check_folder("~/new") == tmp_path / "new"
    assert check_file("~/new.npy", "embed") == tmp_path / "new.npy"
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(UserError, match="new folder in it"):
        check_folder(".")


# --- writes that do not end, and two at once ------------------------------------------------------------------------


def test_a_write_that_fails_leaves_what_was_there(tmp_path):
    def half(opened):
        opened.write(b"half")
        raise OSError(28, "No space left on device")

    write_file(tmp_path / "v.npy", "embed", lambda opened: opened.write(b"whole"))
    before = tree(tmp_path)
    with pytest.raises(OSError, match=r"v\.npy"):
        write_file(tmp_path / "v.npy", "embed", half)
    assert tree(tmp_path) == before


def killed(work):
    """Run a function in a child that must die of SIGKILL; the thread of a test cannot."""
    child = os.fork()
    if not child:
        with contextlib.suppress(BaseException):
            work()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def test_a_kill_in_the_middle_of_a_write(tmp_path):
    """What was there stays, whole; the same command writes it again, and nothing takes the half for data."""

    def half(opened):
        opened.write(b"half")
        opened.flush()
        os.kill(os.getpid(), signal.SIGKILL)

    def half_folder(where):
        (where / "weights").write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)

    write_file(tmp_path / "v.npy", "embed", lambda opened: opened.write(b"1"))
    replace_folder(tmp_path / "made", lambda its: (its / "weights").write_text("1"))
    before = tree(tmp_path)
    killed(lambda: write_file(tmp_path / "v.npy", "embed", half))
    killed(lambda: write_file(tmp_path / "new.npy", "embed", half))
    killed(lambda: replace_folder(tmp_path / "made", half_folder))
    killed(lambda: replace_folder(tmp_path / "new", half_folder))
    after = tree(tmp_path)
    assert not lost(before, after)
    assert all(name.startswith(".") for name in after if name not in before)
    for name in ("v.npy", "new.npy"):
        write_file(tmp_path / name, "embed", lambda opened: opened.write(b"2"))
        assert (tmp_path / name).read_bytes() == b"2"
    for name in ("made", "new"):
        replace_folder(tmp_path / name, lambda its: (its / "weights").write_text("2"))
        assert [path.name for path in (tmp_path / name).iterdir()] == ["weights"]


def test_a_disk_without_room(root, tiny, monkeypatch, capfd):
    """The system ends a write in its middle; the message names the file, and what was there stays."""
    monkeypatch.setattr(Embedder, "from_pretrained", lambda *_, **__: tiny)
    args = ["embed", str(root / "texts.txt"), *map(str, MODEL), "--store", str(root / "s"), "--output"]
    assert main([*args, str(root / "v.npy")]) == 0
    (root / "texts.txt").write_text("a red circle\n" * 200)  # one vector, which the store has
    before = tree(root)
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        message = refusal(capfd, *args, root / "v.npy")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert "v.npy" in message
    assert "space" in message
    assert tree(root) == before


def test_a_record_that_was_cut_off(tmp_path):
    """By a kill; the next line is one of its own, and what is recorded twice counts."""
    write_file(tmp_path / "a", "embed", lambda opened: opened.write(b"1"))
    with (tmp_path / RECORD).open("ab") as record:
        record.write(b'\n{"name": "b", "by": "em')
    write_file(tmp_path / "b", "embed", lambda opened: opened.write(b"2"))
    write_file(tmp_path / "a", "embed", lambda opened: opened.write(b"3"))
    assert is_written(tmp_path / "a", "embed")
    assert is_written(tmp_path / "b", "embed")
    assert not is_written(tmp_path / "b", "report")


def test_recorded_and_killed_before_its_name(tmp_path, monkeypatch):
    """The earlier file is still known."""
    write_file(tmp_path / "a", "embed", lambda opened: opened.write(b"1"))
    with monkeypatch.context() as patched:
        patched.setattr("gen2embed.utils.files.put_in_place", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            write_file(tmp_path / "a", "embed", lambda opened: opened.write(b"2"))
    write_file(tmp_path / "a", "embed", lambda opened: opened.write(b"3"))
    assert (tmp_path / "a").read_bytes() == b"3"


@pytest.mark.parametrize("line", ["[" * 100_000, '{"name": "v.npy", "by": "embed", "digest": [1]}'])
def test_a_record_that_nobody_here_wrote(tmp_path, line):
    (tmp_path / RECORD).write_text(line)
    file(tmp_path / "v.npy")
    with pytest.raises(UserError, match="exists"):
        check_file(tmp_path / "v.npy", "embed")
    check_file(tmp_path / "w.npy", "embed")


def test_a_record_of_another_user(tmp_path):
    """As in /tmp: one's own is beside it, and what was written is replaced."""
    file(tmp_path / RECORD).chmod(0o444)
    with permissions_count():
        for value in (b"1", b"2"):
            write_file(
                check_file(tmp_path / "v.npy", "embed"), "embed", lambda opened, value=value: opened.write(value)
            )
    assert (tmp_path / "v.npy").read_bytes() == b"2"
    assert (tmp_path / RECORD).read_text() == PRECIOUS


def test_a_record_that_cannot_be_written(tmp_path):
    """Is said before the work, by its own name."""
    (tmp_path / RECORD).mkdir()
    for check in (check_file, partial(check_folder, by="embed")):
        with pytest.raises(OSError, match=rf"{RECORD}'$"):
            check(tmp_path / "v.npy", "embed") if check is check_file else check(tmp_path / "v")


def test_two_writers_of_one_file(tmp_path):
    """One of them is there in the end, whole, and either may replace it."""

    def write(value):
        for _ in range(20):
            write_file(tmp_path / "v.npy", "embed", lambda opened: np.save(opened, np.full(1000, value)))

    threads = [threading.Thread(target=write, args=(value,)) for value in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(np.load(tmp_path / "v.npy"))) == 1
    assert is_written(tmp_path / "v.npy", "embed")
    assert sorted(path.name for path in tmp_path.iterdir()) == [RECORD, "v.npy"]


def test_no_file_replaces_a_folder(tmp_path):
    """Whoever writes it."""
    folder(tmp_path / "a")
    before = tree(tmp_path)
    with pytest.raises(OSError, match="directory"):
        write_atomic(tmp_path / "a", lambda opened: opened.write(b"1"))
    assert tree(tmp_path) == before


def test_a_name_of_any_length(tmp_path):
    for name in ("n" * 255, "é" * 127):
        write_file(tmp_path / name, "embed", lambda opened: opened.write(b"1"))
        assert (tmp_path / name).read_bytes() == b"1"


# --- modes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_the_umask_decides_modes(tmp_path, tiny, umask):
    """Of what safetensors, transformers and we write."""
    before = os.umask(umask)
    try:
        tiny.save_pretrained(tmp_path / "saved")
        export("merged", ExportSource(str(TINY), device="cpu"), tmp_path / "exported")
        write_file(tmp_path / "v.npy", "embed", lambda opened: opened.write(b"1"))
        backbone = Lora(["q_proj"], r=2).attach(Embedder.from_pretrained(TINY, device="cpu").backbone)
        adapted = replace(tiny, backbone=backbone)
        replace_folder(tmp_path / "adapter", partial(save, adapted))
    finally:
        os.umask(before)
    written = list(tmp_path.rglob("*"))
    assert sum(path.suffix == ".safetensors" for path in written) == 3
    for path in written:
        assert path.stat().st_mode & 0o777 == (0o777 if path.is_dir() else 0o666) & ~umask, path


def test_a_file_that_is_replaced_keeps_its_mode(tmp_path):
    write_file(tmp_path / "v.npy", "embed", lambda opened: opened.write(b"1"))
    (tmp_path / "v.npy").chmod(0o600)
    write_file(tmp_path / "v.npy", "embed", lambda opened: opened.write(b"2"))
    assert (tmp_path / "v.npy").stat().st_mode & 0o777 == 0o600


def test_a_path_that_is_free(root):
    """Is not touched by the check."""
    before = tree(root)
    assert check_file(root / "deep/new.npy", "embed") == root / "deep/new.npy"
    assert check_folder(root / "deep/new") == root / "deep/new"
    assert tree(root) == before
    assert file(root / "texts.txt").exists()
