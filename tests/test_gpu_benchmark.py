"""benchmarks/gpu.py, as far as a CPU can tell: its recorder and budgets, its counts, and its rows in small shapes."""

import contextlib
import json
import signal
import sys
import time
import weakref
from types import SimpleNamespace

import pytest
import torch
from conftest import REPOSITORY, noise
from torch.autograd.profiler_util import DeviceType
from torch.utils.flop_counter import FlopCounterMode

from gen2embed import Embedder, Item
from gen2embed.encoding.batch import ChunkLimit
from gen2embed.model.packing import attention_mask

sys.path.append(str(REPOSITORY / "benchmarks"))

import gpu
from gpu_rows import bench as parts
from gpu_rows import machine
from gpu_rows.clock import measure_peak, take_turns
from gpu_rows.encoding import embed_prepared
from gpu_rows.operations import count_operations
from gpu_rows.recorder import Recorder, Row, is_free, run_rows, time_limit
from gpu_rows.trace import MARK, busy_and_span, summarize, trace
from gpu_rows.works import LENGTH, TEXTS, draw, even_pairs, in_processes
from yardstick import SHAPES, make_model, save_checkpoint

CPU = torch.device("cpu")
SMOKE = SHAPES["smoke"]
ITEMS = [
    Item.create("a red dog"),
    Item.create("a red cat"),
    Item.create("what is it?", noise(1, (56, 84))),
    Item.create("", noise(2)),
]


@pytest.fixture
def recorder(tmp_path):
    return Recorder(tmp_path, {"device": "none"})


@pytest.fixture(scope="module")
def embedder():
    return parts.make_embedder(SMOKE, torch.float32, CPU)


def lines(folder):
    return [json.loads(line) for line in (folder / "figures.jsonl").read_text().splitlines()]


# --- the recorder ---------------------------------------------------------------------------------------------------


class Big:
    """Stands for a model on the device."""


def test_a_row_that_fails_is_said_and_the_next_one_has_its_memory(recorder, tmp_path):
    held = []

    def fails(_):
        model = Big()
        held.append(weakref.ref(model))
        recorder.add("before the end", 1.0)
        raise torch.cuda.OutOfMemoryError(f"no room for {model}")

    def runs(_):
        held.append(held[0]())
        recorder.add("after it", 2.0)

    run_rows([Row(1, "one", 5, fails), Row(2, "two", 5, runs)], None, recorder)
    assert held[1] is None
    figures = {(line["row"], line["name"]): line["value"] for line in lines(tmp_path) if "name" in line}
    assert figures[1, "before the end"] == 1
    assert figures[2, "after it"] == 2
    assert any("OutOfMemoryError: no room" in line.get("note", "") for line in lines(tmp_path))
    assert "in fails" in (tmp_path / "errors.txt").read_text()
    report = (tmp_path / "report.md").read_text()
    assert "| 2 | after it | 2 |" in report
    assert "OutOfMemoryError" in report


def test_a_row_over_its_budget_is_cut_whatever_it_catches(recorder, tmp_path):
    def never_ends(_):
        recorder.add("known", 1.0)
        while True:
            with contextlib.suppress(Exception):
                time.sleep(0.01)

    started = time.perf_counter()
    run_rows([Row(1, "one", 0.2, never_ends), Row(2, "two", 5, lambda _: recorder.add("b", 1))], None, recorder)
    assert time.perf_counter() - started < 20
    figures = [(figure.row, figure.name, figure.met) for figure in recorder.figures]
    assert figures[:3] == [(1, "known", None), (1, "seconds of the row", False), (2, "b", None)]
    assert any("cut" in line.get("note", "") and "0.2 s" in line["note"] for line in lines(tmp_path))


def test_a_budget_leaves_no_alarm_behind():
    before = signal.getsignal(signal.SIGALRM)
    with time_limit(0.05):
        pass
    time.sleep(0.1)
    assert signal.getsignal(signal.SIGALRM) == before


def test_figures_are_on_disk_at_once(recorder, tmp_path):
    def row(_):
        for count in range(3):
            recorder.add(f"figure {count}", count)
            assert lines(tmp_path)[-1]["name"] == f"figure {count}"

    run_rows([Row(4, "four", 5, row)], None, recorder)
    assert not (tmp_path / "errors.txt").exists()
    assert [figure.row for figure in recorder.figures] == [4] * 4


def test_files_of_others_are_left_alone(recorder, tmp_path, monkeypatch, capsys):
    assert is_free(tmp_path)  # the recorder's own
    assert is_free(tmp_path / "new")
    for name, text in (("report.md", "mine"), ("errors.txt", "mine"), ("figures.jsonl", '{"mine": 1}\n')):
        file = tmp_path / f"of {name}" / name
        file.parent.mkdir()
        file.write_text(text)
        monkeypatch.setattr(sys, "argv", ["gpu.py", "--small", "--output", str(file.parent)])
        with pytest.raises(SystemExit):
            gpu.main()
        assert "--output" in capsys.readouterr().err
        assert [(path, path.read_text()) for path in file.parent.iterdir()] == [(file, text)]
    assert not is_free(file)  # a file, no folder


def test_goals(recorder):
    recorder.add("a", 60.0, "%", at_least=60)
    recorder.add("b", 59.9, "%", at_least=60)
    recorder.add("c", 1e-6, at_most=1e-5)
    recorder.add("d", float("nan"), at_most=1e-5)
    recorder.add("e", True, expected=True)
    recorder.add("f", False, expected=True)
    recorder.add("g", 3)
    assert [figure.met for figure in recorder.figures] == [True, False, True, False, True, False, None]
    assert [figure.cells[3:] for figure in recorder.figures][1:5:3] == [["at least 60", "NO"], ["yes", "yes"]]


@pytest.mark.parametrize(("text", "numbers"), [("1-4", [1, 2, 3, 4]), ("6,2", [2, 6]), ("2,5-6", [2, 5, 6])])
def test_rows_are_chosen(text, numbers):
    assert [row.number for row in gpu.chosen(text)] == numbers


@pytest.mark.parametrize("text", ["0", "7-9", "one", "", "4-2"])
def test_rows_that_are_none_are_refused(text):
    with pytest.raises(gpu.argparse.ArgumentTypeError, match="rows"):
        gpu.chosen(text)


def test_the_budgets_fit_the_halves():
    """240 and 360 seconds, of which a start takes some."""
    seconds = [row.seconds for row in gpu.ROWS]
    assert sum(seconds[:4]) <= 210
    assert sum(seconds[4:]) <= 335


def test_the_commit_of_a_copy(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "git_commit", lambda: None)
    monkeypatch.setattr(machine, "FILE", tmp_path / "COMMIT")
    monkeypatch.delenv(machine.COMMIT, raising=False)
    assert machine.commit() == "unknown"
    (tmp_path / "COMMIT").write_text("abc\n")
    assert machine.commit() == "abc"
    monkeypatch.setenv(machine.COMMIT, "def")
    assert machine.commit() == "def"
    assert {"device", "driver", "libraries", "commit"} <= set(machine.describe_machine(CPU))


# --- what the rows are made of --------------------------------------------------------------------------------------


def test_the_model_made_in_memory_is_the_one_that_is_loaded(embedder, tmp_path):
    save_checkpoint(SMOKE, tmp_path)
    loaded = Embedder.from_pretrained(tmp_path, prompt="hierarchical", resolution="original", device="cpu")
    prepared = embedder.prepare([(item, "query") for item in ITEMS], ChunkLimit(embedder.budget))
    assert torch.equal(embed_prepared(embedder, [prepared]), loaded.encode(ITEMS, "query"))


PUBLISHED = {"2b": 2_208_985_600, "7b": 8_291_375_616}  # parameters of the models on the hub


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_shapes_are_the_real_ones(name):
    shape = SHAPES[name]
    model = make_model(shape, torch.bfloat16, "meta")
    assert sum(parameter.numel() for parameter in model.parameters()) == PUBLISHED[name]
    linear = [module for module in model.model.language_model.layers.modules() if isinstance(module, torch.nn.Linear)]
    assert sum(module.weight.numel() for module in linear) == shape.text_weights
    setting = parts.real(shape, workers=1)
    assert (setting.shallow.layers, setting.shallow.hidden) == (2, shape.hidden)


def test_operations_against_those_that_run(embedder):
    """Of attention that computes all pairs of tokens; and the pairs that the mask lets through, counted one by one."""
    prepared = embedder.prepare([(item, "query") for item in ITEMS], ChunkLimit(10_000))
    counted = count_operations(SMOKE, [prepared])
    full = embedder.backbone.full
    full.set_attn_implementation("eager")
    try:
        with FlopCounterMode(display=False) as ran:
            embed_prepared(embedder, [prepared])
    finally:
        full.set_attn_implementation("sdpa")
    assert ran.get_total_flops() == counted.text + counted.dense + counted.vision
    pairs = sum(int(attention_mask(chunk.inputs["ends"]).sum()) for chunk in prepared.chunks)
    assert counted.attention == 4 * SMOKE.hidden * SMOKE.layers * pairs
    assert 0 < counted.attention < counted.dense
    twice = count_operations(SMOKE, [prepared, prepared])
    assert (twice.forward, twice.step) == (2 * counted.forward, 2 * counted.step)


def test_dropout_is_exchanged():
    embedder = parts.adapt(parts.make_embedder(SMOKE, torch.float32, CPU), 0.0)

    def outputs():
        return [embedder.embed([ITEMS[0]], "query") for _ in range(2)]

    plain = outputs()
    assert torch.equal(*plain)
    parts.set_dropout(embedder.backbone.full, 0.1)
    assert not torch.equal(*outputs())
    parts.set_dropout(embedder.backbone.full, 0.0)
    assert torch.equal(outputs()[0], plain[0])


def test_works(embedder):
    items, _ = draw(TEXTS, 3, 56)
    tokenize = embedder.build.processor.tokenizer
    assert [len(tokenize(item.texts[0])["input_ids"]) for item in items] == [LENGTH] * 3
    pairs = even_pairs(5, 56)
    lengths = {len(embedder.build.token_ids(pair.query, "query")) for pair in pairs}
    assert len(lengths) == 1
    assert len({pair.query.key for pair in pairs}) == 5


def test_processes_return_what_one_would(embedder):
    def work(item):
        return embedder.prepare([(item, "query")], ChunkLimit(512)).chunks[0].inputs["input_ids"]

    one, several = (in_processes(work, ITEMS, workers) for workers in (1, 2))
    assert len(one) == len(several) == len(ITEMS)
    assert all(map(torch.equal, one, several))


def test_schemes_take_turns_within_the_time():
    ran = []
    schemes = {name: lambda name=name: ran.append(name) or time.sleep(0.01) for name in "ab"}
    seconds = take_turns(schemes, CPU, 1.0)
    assert 2 <= len(seconds["a"]) == len(seconds["b"]) <= 50
    assert "".join(ran[:6]) == "ababba"
    seconds = take_turns({"slow": lambda: time.sleep(0.3)}, CPU, 0.5, warm=False)
    assert len(seconds["slow"]) == 1  # a second run would go beyond the time
    assert len(take_turns(schemes, CPU, 0, warm=False)["a"]) == 1


def test_a_peak_holds_what_was_given_back():
    peak = measure_peak(lambda: torch.ones(2**26, dtype=torch.uint8).max(), CPU)
    assert 0.9 * 2**26 < peak.over < 2**27  # the system counts in pages, and not at once


def test_gaps_against_a_line_of_time():
    ranges = [(0, 3), (2, 4), (6, 7), (1, 2), (6, 9)]
    line = [any(start <= at < end for start, end in ranges) for at in range(9)]
    assert busy_and_span(ranges) == (sum(line), 9)
    assert busy_and_span([]) == (0, 0)


def test_a_trace_names_operations_and_waits():
    matrix = torch.ones(8, 8)
    seen = trace(lambda: [(matrix @ matrix).sum().item() for _ in range(3)], CPU)
    assert seen.waits == {"aten::_local_scalar_dense": 3}
    assert {name: count for name, _, count in seen.kernels}["aten::mm"] == 3
    assert seen.span > 0


def event(name, start, end, device=DeviceType.CUDA, annotation=False):
    times = SimpleNamespace(start=start, end=end)
    return SimpleNamespace(name=name, time_range=times, device_type=device, is_user_annotation=annotation)


def test_a_trace_of_a_gpu():
    """Kernels on two streams, with a gap; the names that a program gave to times are no kernels."""
    host = DeviceType.CPU
    events = [
        event(MARK, 0, 9000, host),
        event("cudaStreamSynchronize", 8000, 9000, host),
        event("cudaDeviceSynchronize", 9500, 9900, host),  # the benchmark's own, after the work
        event("aten::_local_scalar_dense", 7900, 9000, host),
        event(MARK, 1000, 10_000, annotation=True),
        event("Optimizer.step#AdamW.step", 1000, 10_000, annotation=True),
        event("gemm", 1000, 4000),
        event("gemm", 6000, 7000),
        event("copy", 3000, 5000),
    ]
    seen = summarize(events, on_gpu=True)
    assert seen.kernels == [("gemm", 4, 2), ("copy", 2, 1)]
    assert (seen.busy, seen.span) == (5, 6)
    assert seen.waits == {"cudaStreamSynchronize": 1, "aten::_local_scalar_dense": 1}


def test_sentence_transformers_may_be_missing(recorder, embedder, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_rival", None)
    small = SimpleNamespace(**{**vars(parts.SMALL), "compared": {parts.LABELS: 4}})
    from gpu_rows.encoding import run_rivals

    run_rows([Row(5, "five", 60, run_rivals)], parts.Bench(CPU, small, recorder), recorder)
    assert any("sentence-transformers does not run here" in text for _, text in recorder.notes)
    assert any("ours over reference" in figure.name for figure in recorder.figures)


# --- all of it ------------------------------------------------------------------------------------------------------


def run_small(monkeypatch, folder, *args):
    """Run the command in this process; returns its figures."""
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--small", "--output", str(folder), *args])
    gpu.main()
    assert not (folder / "errors.txt").exists(), (folder / "errors.txt").read_text()
    figures = [line for line in lines(folder) if "name" in line]
    missed = [figure["name"] for figure in figures if figure["met"] is False]
    assert not missed
    return figures


def test_small(monkeypatch, tmp_path):
    figures = run_small(monkeypatch, tmp_path, "--rows", "2,4")
    assert {figure["row"] for figure in figures} == {2, 4}
    assert any("eager, packed" in figure["name"] for figure in figures)
    assert any("share of row 1's rate" in figure["name"] for figure in figures)


@pytest.mark.slow
def test_small_has_all_rows(monkeypatch, tmp_path, capsys):
    figures = run_small(monkeypatch, tmp_path)
    assert {figure["row"] for figure in figures} == set(range(1, 9))
    assert all(sum(figure["row"] == row for figure in figures) > 2 for row in range(1, 9))
    assert "| 8 | 500 queries among 500" in capsys.readouterr().out


def test_without_a_gpu_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    with pytest.raises(SystemExit):
        gpu.main()
    assert "--small" in capsys.readouterr().err
