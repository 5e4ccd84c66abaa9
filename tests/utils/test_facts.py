"""What is remembered of files holds while they are as they were, and for no longer."""

import hashlib
import mmap
import os
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from conftest import noise
from PIL import Image

from gen2embed import UserError
from gen2embed.data.pictures import DEEP, LONG, MISSING, UNREADABLE, check_pictures, find_faults
from gen2embed.encoding.engine import Engine
from gen2embed.types import ImagePart, Item
from gen2embed.utils import facts
from gen2embed.utils.facts import MARGIN, digest_of, keep_facts
from gen2embed.utils.picture_facts import picture_facts


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """A cache of its own, in which nothing is known."""
    monkeypatch.setenv("GEN2EMBED_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(facts, "_CACHE", facts._Cache())
    return tmp_path / "cache" / "facts.sqlite"


@pytest.fixture
def later(monkeypatch) -> None:
    """Let files that are written now count as settled."""
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 2 * MARGIN)


def forget() -> None:
    """Leave what other processes see."""
    keep_facts()
    facts._CACHE = facts._Cache()


@pytest.fixture
def reads(monkeypatch) -> list[str]:
    """The names of files that are digested from here on."""
    read, digest = [], hashlib.file_digest

    def counting(opened, kind):
        read.append(Path(opened.name).name)
        return digest(opened, kind)

    monkeypatch.setattr(hashlib, "file_digest", counting)
    return read


# --- pictures -------------------------------------------------------------------------------------------------------


def test_a_picture_is_known_by_its_content(tmp_path, cache, later):
    """Another file of the same size and modification time is another picture; a copy is the same."""
    red, blue = (noise(seed, (8, 8)) for seed in (1, 2))
    red.save(tmp_path / "a.bmp")
    red.save(tmp_path / "copy.bmp")
    before, status = Item.create("", tmp_path / "a.bmp").key, (tmp_path / "a.bmp").stat()
    assert Item.create("", tmp_path / "copy.bmp").key == before
    blue.save(tmp_path / "a.bmp")
    os.utime(tmp_path / "a.bmp", ns=(status.st_atime_ns, status.st_mtime_ns))
    after = (tmp_path / "a.bmp").stat()
    assert (after.st_size, after.st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    assert Item.create("", tmp_path / "a.bmp").key != before
    red.save(tmp_path / "new.bmp")
    os.utime(tmp_path / "new.bmp", ns=(status.st_atime_ns, status.st_mtime_ns))
    (tmp_path / "new.bmp").replace(tmp_path / "a.bmp")
    assert Item.create("", tmp_path / "a.bmp").key == before
    assert Item.create("", tmp_path / "a.bmp", "of what colour?").key != before


def test_a_replaced_picture_gets_its_own_vector(tmp_path, cache, later, tiny):
    engine, picture = Engine(store=tmp_path / "store"), tmp_path / "a.bmp"
    noise(1).save(picture)
    old, status = engine.encode(tiny, [Item.create("", picture)], "query").vectors, picture.stat()
    noise(2).save(picture)
    os.utime(picture, ns=(status.st_atime_ns, status.st_mtime_ns))
    new = engine.encode(tiny, [Item.create("", picture)], "query")
    assert new.computed == 1
    assert (new.vectors - old).abs().max() > 1e-3
    (tmp_path / "moved").mkdir()
    moved = picture.replace(tmp_path / "moved/b.bmp")
    assert engine.encode(tiny, [Item.create("", moved)], "query").reused == 1


def test_a_picture_is_read_once_by_all_processes(tmp_path, cache, later, reads):
    paths = [tmp_path / f"{number}.png" for number in range(40)]
    for number, path in enumerate(paths):
        noise(number, (20 + number, 30)).save(path)
    check_pictures(map(ImagePart, paths))
    assert sorted(reads) == sorted(path.name for path in paths)
    pictures = [ImagePart(path) for path in paths]
    assert [picture.size for picture in pictures] == [(20 + number, 30) for number in range(40)]
    forget()
    assert [ImagePart(path).key for path in paths] == [picture.key for picture in pictures]
    check_pictures(map(ImagePart, paths))
    assert len(reads) == len(paths)


def test_headers_are_remembered_with_their_faults(tmp_path, cache, later):
    noise(0, (1, 300)).save(tmp_path / "long.png")
    (tmp_path / "text.png").write_text("no picture")
    Image.new("F", (20, 20)).save(tmp_path / "deep.tiff")
    noise(0).save(tmp_path / "sound.png")
    paths = [tmp_path / f"{name}.png" for name in ("long", "sound", "text", "none")]
    paths.append(tmp_path / "deep.tiff")
    kinds = {path: fault.kind for path, fault in find_faults(paths).items()}
    assert kinds == {paths[0]: LONG, paths[2]: UNREADABLE, paths[3]: MISSING} | {paths[4]: DEEP}
    forget()
    assert {path: fault.kind for path, fault in find_faults(paths).items()} == kinds


def test_a_picture_that_vanished_is_named(tmp_path, cache):
    with pytest.raises(UserError, match=r"a.png does not exist"):
        Item.create("", tmp_path / "a.png").key  # noqa: B018
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(UserError, match=r"pipe.png is not a picture that can be read: it is not a regular file"):
        Item.create("", tmp_path / "pipe.png").key  # noqa: B018


# --- when a fact holds ----------------------------------------------------------------------------------------------


def test_a_file_that_was_just_changed_is_read_again(tmp_path, cache, reads):
    file = tmp_path / "file"
    file.write_bytes(b"one")
    digest_of(file)
    status = file.stat()
    file.write_bytes(b"two")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert digest_of(file) == hashlib.blake2b(b"two").hexdigest()
    digest_of(file)
    assert reads == ["file"] * 3


def test_a_file_that_changes_while_it_is_read_is_not_remembered(tmp_path, cache, later, monkeypatch):
    file, digest = tmp_path / "file", hashlib.file_digest
    file.write_bytes(b"one")

    def slow(opened, kind):
        read = digest(opened, kind)
        file.write_bytes(b"two, longer")
        return read

    monkeypatch.setattr(hashlib, "file_digest", slow)
    assert digest_of(file) == hashlib.blake2b(b"one").hexdigest()
    monkeypatch.setattr(hashlib, "file_digest", digest)
    assert digest_of(file) == hashlib.blake2b(b"two, longer").hexdigest()


def test_digests_of_one_file_are_kept_apart(tmp_path, cache, later):
    (tmp_path / "file").write_bytes(b"one")
    for _ in range(2):
        assert digest_of(tmp_path / "file", "sha256") == hashlib.sha256(b"one").hexdigest()
        assert digest_of(tmp_path / "file") == hashlib.blake2b(b"one").hexdigest()
        assert picture_facts(tmp_path / "file").width == 0
        forget()


# --- where facts are kept -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["no folder", "damaged", "locked"])
def test_facts_that_cannot_be_kept_are_in_memory(tmp_path, cache, later, reads, monkeypatch, caplog, kind):
    caplog.set_level("INFO")
    (tmp_path / "file").write_bytes(b"one")
    if kind == "no folder":
        (tmp_path / "cache").write_text("a file")
    else:
        cache.parent.mkdir()
        cache.write_bytes(b"no database, and longer than its header is, which has a hundred bytes" * 4)
    if kind == "locked":
        cache.unlink()
        monkeypatch.setattr(facts, "WAIT", 0.01)
        other = sqlite3.connect(cache)
        other.execute("BEGIN EXCLUSIVE")
    for _ in range(2):
        assert digest_of(tmp_path / "file") == hashlib.blake2b(b"one").hexdigest()
    keep_facts()
    assert reads == ["file"]
    assert "GEN2EMBED_CACHE" in caplog.text
    assert (f"remove {cache}" in caplog.text) == (kind == "damaged")


@pytest.mark.parametrize("change", ["value = x'00'", "value = 'text'", "value = NULL", "stamp = 3"])
def test_a_fact_that_was_damaged_is_read_again(tmp_path, cache, later, change):
    (file := tmp_path / "a").write_text("a")
    expected = digest_of(file)
    keep_facts()
    with sqlite3.connect(cache) as connection:
        connection.execute(f"UPDATE facts SET {change}")
    forget()
    assert digest_of(file) == expected


@pytest.mark.skipif(sys.platform != "linux", reason="of Linux's page cache")
def test_a_mapped_page_may_be_written_again_without_a_trace(tmp_path, cache, monkeypatch):
    """So a file is settled only when its pages have been written back, which takes half a minute."""
    (file := tmp_path / "a").write_bytes(b"a" * 4096)
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 30)
    with file.open("r+b") as opened, mmap.mmap(opened.fileno(), 0) as mapped:
        mapped[0:1] = b"b"
        digest_of(file)
        mapped[0:1] = b"c"
        assert digest_of(file) == hashlib.blake2b(file.read_bytes()).hexdigest()


def test_processes_and_threads_share_facts(tmp_path, cache, later):
    """Several processes of several threads write the same facts at once, and find each other's."""
    files = [tmp_path / f"{number}" for number in range(60)]
    for file in files:
        file.write_bytes(file.name.encode())
    lines = [
        "import importlib.util, sys, time, threading",
        "from pathlib import Path",
        # Without what the package imports.
        f"spec = importlib.util.spec_from_file_location('facts', {facts.__file__!r})",
        "facts = importlib.util.module_from_spec(spec)",
        "sys.modules['facts'] = facts; spec.loader.exec_module(facts)",
        "now = time.time; time.time = lambda: now() + 2 * facts.MARGIN",
        "look = lambda: [facts.digest_of(Path(name)) and facts.keep_facts() for name in sys.argv[1:]]",
        "threads = [threading.Thread(target=look) for _ in range(4)]",
        "[thread.start() for thread in threads]; [thread.join() for thread in threads]",
        "assert facts._CACHE.usable",
    ]
    command = [sys.executable, "-c", "\n".join(lines), *map(str, files)]
    processes = [subprocess.Popen(command) for _ in range(2)]
    assert [process.wait(60) for process in processes] == [0, 0]
    with sqlite3.connect(cache) as connection:
        assert connection.execute("SELECT count(*) FROM facts").fetchone() == (60,)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_fork_takes_no_lock_along(tmp_path, cache, later):
    (tmp_path / "file").write_bytes(b"one")
    expected = digest_of(tmp_path / "file")
    os.register_at_fork(after_in_child=facts._CACHE.reset)  # as the module does for its own
    held = threading.Event()

    def hold():
        with facts._CACHE.lock:
            held.set()
            time.sleep(1)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    if (child := os.fork()) == 0:
        os._exit(0 if digest_of(tmp_path / "file") == expected else 1)
    thread.join()
    assert os.waitpid(child, 0)[1] == 0
    assert digest_of(tmp_path / "file") == expected
