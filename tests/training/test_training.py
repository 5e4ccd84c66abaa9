"""Mining and training on real models: the adapter alone moves, and runs repeat."""

import csv
import json
import re
import shutil
from dataclasses import replace

import peft
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from checkpoints import make_checkpoint
from conftest import TINY, folders
from safetensors.torch import load_file, save_file
from steps import TARGETS, attached, cached, collating, load, make_module
from transformers import AutoModelForImageTextToText

from gen2embed import Embedder, Item, UserError
from gen2embed.data.pairs import data_fingerprint
from gen2embed.encoding.engine import Engine
from gen2embed.mining.clusters import SCHEMA, check_miner, read_clusters, write_clusters
from gen2embed.mining.mine import mine_pairs
from gen2embed.mining.random import Random
from gen2embed.mining.saha import SaHaPaper
from gen2embed.model.adapter import Full, Lora, save


@pytest.fixture(scope="module")
def pairs(world):
    return replace(world, subsets=("shape", "t2i", "change")).pairs()


def test_collate_keeps_the_pairs_together(pairs, tiny):
    some = pairs[:4] + pairs[24:29]
    batch = collating(tiny, 3, share=True)(some)
    with torch.no_grad():
        rows = torch.cat([tiny.embed_chunk(chunk, batch.pictures) for chunk in batch.chunks])
        queries, candidates = rows[batch.order].chunk(2)
    torch.testing.assert_close(queries, tiny.encode([pair.query for pair in some]), atol=1e-5, rtol=0)
    torch.testing.assert_close(candidates, tiny.encode([p.positive for p in some], "candidate"), atol=1e-5, rtol=0)
    items = [*(("query", pair.query) for pair in some), *(("candidate", pair.positive) for pair in some)]
    distinct = {(role, item.key, bool(item.pictures)) for role, item in items}
    sizes = [[chunk.rows for chunk in batch.chunks if chunk.pictured == pictured] for pictured in (False, True)]
    assert [sum(its) for its in sizes] == [sum(has == pictured for *_, has in distinct) for pictured in (False, True)]
    assert all(its[:-1] == [3] * (len(its) - 1) and len(its) > 1 for its in sizes)
    keys = [pair.positive.key for pair in some]
    assert (batch.positives[:, None] == batch.positives).tolist() == [[a == b for b in keys] for a in keys]
    assert batch.rows[-1] == "t2i row 4"


# --- adapters -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dora", [False, True])
def test_an_adapter_survives_saving(tmp_path, dora):
    embedder = attached(Lora(TARGETS, r=4, dora=dora), torch.float32)
    embedder.backbone.full.eval()
    expected = embedder.encode(["a red star", "a ring"])
    assert (expected - load().encode(["a red star", "a ring"])).abs().max() > 1e-3
    save(embedder, tmp_path / "adapter")
    for loaded in (
        Embedder.from_pretrained(tmp_path / "adapter", device="cpu"),
        Embedder.from_pretrained(TINY, adapter=tmp_path / "adapter", device="cpu"),
    ):
        torch.testing.assert_close(loaded.encode(["a red star", "a ring"]), expected, atol=1e-6, rtol=0)
        assert loaded.build.resolution.policy == "original"  # carried
        assert loaded.fingerprint["adapter"] is not None
    plain = AutoModelForImageTextToText.from_pretrained(TINY, dtype=torch.float32)
    by_peft = peft.PeftModel.from_pretrained(plain, str(tmp_path / "adapter")).eval()
    inputs = loaded.build([Item.create("a red star")], "query")
    hidden = by_peft.get_base_model().model(**inputs).last_hidden_state[:, -1]
    torch.testing.assert_close(torch.nn.functional.normalize(hidden, dim=-1), expected[:1], atol=1e-5, rtol=0)


def test_an_adapter_carries_its_prompt(tmp_path, caplog):
    embedder = attached(Lora(TARGETS, r=4), torch.float32)
    embedder = replace(embedder, build=load(prompt="suffix", convention="reference").build)
    save(embedder, tmp_path)
    loaded = Embedder.from_pretrained(tmp_path, device="cpu")
    assert loaded.build.prompt.describe() == embedder.build.prompt.describe()
    assert not caplog.records
    other = Embedder.from_pretrained(tmp_path, prompt="system", resolution="clip", device="cpu")
    assert other.build.prompt.convention == "native"
    for said in ("prompt.convention is 'reference' there and 'native' here", "resolution.policy is 'original' there"):
        assert said in caplog.text


def test_full_fine_tuning_leaves_a_checkpoint(tmp_path):
    embedder = load()
    embedder = replace(embedder, backbone=Full().attach(embedder.backbone))
    trained = {name for name, p in embedder.backbone.full.named_parameters() if p.requires_grad}
    assert trained
    assert not any("visual" in name for name in trained)
    with torch.no_grad():
        embedder.backbone.model.language_model.norm.weight.mul_(torch.linspace(0.5, 2, 128))
    expected = embedder.encode("a red star")
    save(embedder, tmp_path)
    loaded = Embedder.from_pretrained(tmp_path, device="cpu")
    torch.testing.assert_close(loaded.encode("a red star"), expected, atol=1e-6, rtol=0)
    assert loaded.build.resolution.policy == "original"
    whole = load()
    Full(vision=True).attach(whole.backbone)
    assert all(p.requires_grad for p in whole.backbone.full.parameters())


def test_adapters_that_do_not_fit(tmp_path):
    with pytest.raises(UserError, match=r"target_modules=\['nothing'\] match no module .*linear layers are .*q_proj"):
        Lora(["nothing"]).attach(load().backbone)
    embedder = attached(Lora(TARGETS, r=4), torch.float32)
    save(embedder, tmp_path / "adapter")
    make_checkpoint("qwen2_5_vl", tmp_path / "other")
    with pytest.raises(UserError, match=r"was trained on another base: .*tiny/checkpoint .* and this is .*other"):
        Embedder.from_pretrained(tmp_path / "other", adapter=tmp_path / "adapter")
    with pytest.raises(UserError, match=r"the checkpoint folder .*none does not exist"):
        Embedder.from_pretrained(TINY, adapter=tmp_path / "none")
    weights = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    renamed = {name.replace("layers.0.", "layers.9."): tensor for name, tensor in weights.items()}
    save_file(renamed, tmp_path / "adapter" / "adapter_model.safetensors")
    (tmp_path / "adapter" / "gen2embed.json").unlink()  # which knows their digest
    with pytest.raises(UserError, match=r"does not fit .*: 6 weights are missing and 6 are left over"):
        Embedder.from_pretrained(tmp_path / "adapter")


# --- clusters -------------------------------------------------------------------------------------------------------


def test_clusters_survive_saving(pairs, tiny, tmp_path):
    mined = mine_pairs(tiny, Engine(), pairs, SaHaPaper(top_k=5), ["shape"])
    write_clusters(tmp_path / "clusters.parquet", mined.table, mined.manifest)
    clusters = read_clusters(tmp_path / "clusters.parquet", pairs)
    assert mined.table.schema.equals(SCHEMA)
    assert max(map(len, clusters.members)) == 6
    for members in clusters.members:
        assert len({pairs[row].subset for row in members}) == 1
    queries = tiny.encode([pair.query for pair in pairs])
    positives = tiny.encode([pair.positive for pair in pairs], "candidate")
    rows = mined.table.to_pylist()
    for row, (anchor, member) in zip(rows, ((m[0], r) for m in clusters.members for r in m), strict=True):
        assert row["similarity"] == pytest.approx(float(queries[anchor] @ positives[member]), abs=1e-5)
        assert row["owner_similarity"] == pytest.approx(float(queries[anchor] @ queries[member]), abs=1e-5)
    assert clusters.manifest["settings"] == {"top_k": 5, "pool_multiplier": 3}
    assert clusters.manifest["embedding"] == json.loads(json.dumps(tiny.fingerprint))


def test_random_clusters_embed_nothing(pairs):
    mined = mine_pairs(None, None, pairs, Random(top_k=5), [])
    assert mined.encoded == ()
    assert mined.table["similarity"].null_count == mined.table.num_rows == len(pairs)


def test_clusters_of_other_data_or_model(pairs, tiny, tmp_path):
    path = tmp_path / "clusters.parquet"
    mined = mine_pairs(tiny, Engine(), pairs, SaHaPaper(top_k=5), [])
    write_clusters(path, mined.table, mined.manifest)
    with pytest.raises(UserError, match=r"mined from other data: 72 rows of shape, t2i, change .* these are 71 rows"):
        read_clusters(path, pairs[1:])
    with pytest.raises(UserError, match=r"mined with another model: files:.*clusters_of_any_model=true"):
        check_miner(read_clusters(path, pairs), "another")
    clusters = read_clusters(path, pairs)
    check_miner(clusters, tiny.backbone.identity)
    assert clusters.members
    with pytest.raises(UserError, match="do not exist; mine them with"):
        read_clusters(tmp_path / "none.parquet", pairs)
    pq.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(UserError, match="holds no clusters"):
        read_clusters(path, pairs)


def test_data_fingerprint_ignores_the_root(pairs, world, tmp_path):
    shutil.copytree(world.folder, tmp_path / "moved")
    moved = replace(world, folder=tmp_path / "moved", subsets=("shape", "t2i", "change")).pairs()
    assert data_fingerprint(moved) == data_fingerprint(pairs)
    assert data_fingerprint(moved[1:]) != data_fingerprint(pairs)


# --- python mine.py, python train.py --------------------------------------------------------------------------------

SMALL = ["data.rows=24", "mining.top_k=7"]
EVAL = ["benchmark.queries=8", "bootstrap=20", "benchmark.subsets=[shape]"]
TRAIN = [*EVAL, "trainer.max_steps=3", "data.subsets=[shape,t2i]", "batch.pairs=16"]


@pytest.fixture
def train(run_script, world):
    def run(*args):
        flags = [arg for arg in args if arg.startswith("-")]  # come first
        overrides = [arg for arg in args if not arg.startswith("-")]
        return run_script("train.py", *flags, *folders(world), *SMALL, *TRAIN, *overrides)

    return run


def weights(folder):
    return load_file(folder / "adapter" / "adapter_model.safetensors")


def test_mine_then_train_then_evaluate(run_script, train, world, tmp_path):
    mined = run_script("mine.py", "output_dir=mined", f"data.folder={world.folder}", *SMALL, "data.subsets=[shape,t2i]")
    assert mined.code == 0, mined.err
    assert "covered" in mined.out
    outcome = train("output_dir=run", "data.clusters=mined/clusters.parquet")
    assert outcome.code == 0, outcome.err
    files = {"clusters.parquet", "adapter", "results.json", "predictions.parquet", "config.yaml", "manifest.json"}
    assert files <= {path.name for path in (tmp_path / "run").iterdir()}
    assert (tmp_path / "run/clusters.parquet").read_bytes() == (tmp_path / "mined/clusters.parquet").read_bytes()
    assert re.search(r"trained +│ [\d,]+ parameters; 1,\d+,\d+ are frozen", outcome.out)
    assert "16 pairs a step, of mixed subsets" in outcome.out
    assert re.search(r"negatives +│ 15 a query", outcome.out)

    data, at = folders(world)
    small = [at, *EVAL]
    again = run_script("eval.py", "checkpoint=run/adapter", "output_dir=again", *small)
    assert again.code == 0, again.err
    first, second = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("run", "again"))
    assert first["tasks"] == second["tasks"]
    assert first["manifest"]["fingerprint"] == second["manifest"]["fingerprint"]
    assert second["manifest"]["fingerprint"]["adapter"] is not None
    assert second["manifest"]["items_computed"] == 0
    assert "not as the checkpoint" not in again.err

    other = run_script("eval.py", "checkpoint=run/adapter", "prompt=suffix", *small)
    assert other.code == 0, other.err
    assert "not as the checkpoint run/adapter was trained: prompt.system.candidate is" in " ".join(other.err.split())
    deeper = run_script("mine.py", "checkpoint=run/adapter", "output_dir=deeper", data, *SMALL, "data.subsets=[t2i]")
    assert deeper.code == 0, deeper.err
    mined_with = json.loads((tmp_path / "deeper" / "manifest.json").read_text())["fingerprint"]
    assert mined_with == first["manifest"]["fingerprint"]


def test_training_moves_the_adapter_and_repeats(train, tmp_path):
    for name, args in (("a", ["seed=5"]), ("b", ["seed=5"]), ("c", ["seed=6"])):
        outcome = train(f"output_dir={name}", *args, "engine.store=null", "trainer.log_every_n_steps=1")
        assert outcome.code == 0, outcome.err
    a, b, c = (weights(tmp_path / name) for name in "abc")
    moved = [name for name, tensor in a.items() if "lora_B" in name and tensor.abs().max() > 0]
    assert len(moved) == sum("lora_B" in name for name in a) > 0  # it starts at zero
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not all(torch.equal(a[name], c[name]) for name in a)
    log = [line for line in (tmp_path / "a" / "metrics.csv").read_text().splitlines() if line]
    assert {"loss", "accuracy", "lr", "step", "world/shape"} <= set(log[0].split(","))


def test_training_goes_on_from_an_adapter(train, tmp_path):
    assert train("output_dir=first").code == 0
    outcome = train("output_dir=second", "checkpoint=first/adapter")
    assert outcome.code == 0, outcome.err
    first, second = weights(tmp_path / "first"), weights(tmp_path / "second")
    assert set(first) == set(second)
    apart = {name: (second[name] - first[name]).abs().max() for name in first if "lora_A" in name}
    assert all(0 < distance < 0.1 for distance in apart.values())  # moved, from where it was
    outcome = train("output_dir=third", "checkpoint=first/adapter", "adapter=full")
    assert "error: adapter=full cannot go on from an adapter" in outcome.err


def test_the_base_does_not_move(pairs, tiny):
    embedder = attached(Lora(TARGETS, r=4), torch.float32)
    before = {name: p.clone() for name, p in embedder.backbone.full.named_parameters() if not p.requires_grad}
    trained = [p for p in embedder.backbone.full.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    cached(make_module(embedder), pairs[:4])
    optimizer.step()
    after = dict(embedder.backbone.full.named_parameters())
    assert len(before) > 50
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_compiled_layers_are_not_trained(train):
    outcome = train("model.compiled=true")
    assert outcome.code == 1
    assert "model.compiled=true draws other random numbers" in outcome.err


def test_multirun_over_miners_and_seeds(train, tmp_path):
    outcome = train("-m", "mining=random,saha_paper", "seed=1,2", "output_dir=sweep", "trainer.max_steps=1")
    assert outcome.code == 0, outcome.err
    kinds = []
    for file in (tmp_path / "sweep").glob("*/results.json"):
        manifest = json.loads(file.read_text())["manifest"]
        kinds.append((manifest["config"]["mining"]["_target_"].rpartition(".")[2], manifest["seed"]))
    assert sorted(kinds) == [("Random", 1), ("Random", 2), ("SaHaPaper", 1), ("SaHaPaper", 2)]


def test_the_best_of_the_validation_is_kept(train, tmp_path):
    """The rate is so high that the second step spoils what the first has; the last is kept where that is asked for."""
    wild = ["optim.optimizer.lr=0.3", "optim.scheduler.num_warmup_steps=0", "adapter.dropout=0", "trainer.max_steps=3",
            "validation=world", "validation.every_n_steps=2", "validation.benchmark.subsets=[shape]",
            "validation.benchmark.queries=16", "trainer.log_every_n_steps=1", f"validation.benchmark.folder={tmp_path}",
            "callbacks.steps.every_n_steps=1"]  # fmt: skip
    for keep in ("best", "last"):
        outcome = train(*wild, f"validation.keep={keep}", f"output_dir={keep}")
        assert outcome.code == 0, outcome.err
        with (tmp_path / keep / "metrics.csv").open() as lines:
            logged = {
                row["step"]: float(row["validation/mean"]) for row in csv.DictReader(lines) if row["validation/mean"]
            }
        assert set(logged) == {"2", "3"}  # every second step, and the last
        best = max(("2", "3"), key=lambda step: (logged[step], -int(step)))
        expected = best if keep == "best" else "3"
        kept, on_the_way = (
            weights(tmp_path / keep),
            load_file(tmp_path / keep / f"steps/{expected}/adapter_model.safetensors"),
        )
        assert all(torch.equal(kept[name], on_the_way[name]) for name in on_the_way)
        assert (f"the adapter is that of step {best}, the best" in " ".join(outcome.err.split())) == (keep == "best")


def test_training_stops_when_the_validation_gets_no_better(train, tmp_path):
    """So small a rate leaves every score as it is, and the first is the best; what was stopped is finished."""
    idle = ["optim.optimizer.lr=1e-5", "adapter.dropout=0", "trainer.max_steps=9", "validation=world",
            "validation.every_n_steps=1", "validation.patience=2", "validation.keep=last",
            "validation.benchmark.subsets=[shape]", "validation.benchmark.queries=8",
            f"validation.benchmark.folder={tmp_path}", "output_dir=run"]  # fmt: skip
    outcome = train(*idle)
    assert outcome.code == 0, outcome.err
    assert "step 3: training stops, the best was step 1" in " ".join(outcome.err.split())
    metrics = (tmp_path / "run/metrics.csv").read_text()
    assert [row["step"] for row in csv.DictReader(metrics.splitlines())] == ["3", "0"]  # and the evaluation
    assert [path.name for path in (tmp_path / "run/checkpoints").glob("*.ckpt")] == ["step=000003.ckpt"]
    again = train(*idle)
    assert again.code == 0, again.err
    assert "step 4" not in again.err
    assert (tmp_path / "run/metrics.csv").read_text() == metrics


def test_training_in_half_precision(run_script, world, tmp_path):
    losses = {}
    for precision, dtype in (("32-true", "float32"), ("bf16-mixed", "float32"), ("bf16-true", "bfloat16")):
        outcome = run_script(
            "train.py", folders(world)[0], "data.rows=24", "data.subsets=[t2i]", "mining=none", "batch.pairs=6",
            "benchmark=none", "adapter.dropout=0", "trainer.max_steps=2", "trainer.log_every_n_steps=1",
            f"trainer.precision={precision}", f"output_dir={precision}",
        )  # fmt: skip
        assert outcome.code == 0, outcome.err
        trained = weights(tmp_path / precision)
        assert {tensor.dtype for tensor in trained.values()} == {getattr(torch, dtype)}
        assert all(tensor.any() for tensor in trained.values())  # lora_B began at zero
        with (tmp_path / precision / "metrics.csv").open() as lines:
            losses[precision] = float(next(csv.DictReader(lines))["loss"])
    assert len(set(losses.values())) == 3
    assert max(losses.values()) == pytest.approx(min(losses.values()), rel=0.1)


def test_the_options_of_loss_and_batches(train, tmp_path):
    """All at once, as the command line has them."""
    outcome = train("loss.mask_known=true", "loss.mask_margin=0.1", "loss.dims=[32,128]", "loss.learn_temperature=true",
                    "batch.weights={shape: 1, t2i: 3}", "batch.gradient_checkpointing=true", "optim=cosine",
                    "trainer.log_every_n_steps=1", "output_dir=run")  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert re.search(r"weight, t2i +│ 3", outcome.out)
    rows = list(csv.DictReader((tmp_path / "run" / "metrics.csv").open()))
    assert 0 < abs(float(rows[2]["temperature"]) - 0.02) < 0.001
    assert {"gradient_norm", "pairs_per_second", "memory_gib", "negative_similarity"} <= set(rows[0])


def test_training_on_batches_of_one_subset(train, tmp_path):
    outcome = train("batch.mixed=false", "batch.pairs=8", "mining=topk", "output_dir=run")
    assert outcome.code == 0, outcome.err
    assert "8 pairs a step, of one subset" in outcome.out


def test_training_without_mining_and_in_full(run_script, world, tmp_path):
    outcome = run_script("train.py", "mining=none", "adapter=full", "output_dir=run", "data.rows=24", *TRAIN,
                         *folders(world), "optim.optimizer.lr=1e-4")  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert not (tmp_path / "run" / "clusters.parquet").exists()
    assert (tmp_path / "run" / "adapter" / "model.safetensors").is_file()
    again = run_script("eval.py", "checkpoint=run/adapter", folders(world)[1], *EVAL)
    assert again.code == 0, again.err
    assert "not as the checkpoint" not in again.err


def test_nothing_trained_is_the_model_as_it_is(run_script, train, world, tmp_path):
    assert train("adapter=none", "output_dir=run").code == 0
    assert not (tmp_path / "run" / "adapter").exists()
    assert run_script("eval.py", "output_dir=again", folders(world)[1], *EVAL).code == 0
    first, second = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("run", "again"))
    assert first["tasks"] == second["tasks"]


def test_training_without_an_evaluation(run_script, world, tmp_path):
    args = [folders(world)[0], *SMALL, "data.subsets=[shape]", "batch.pairs=16", "trainer.max_steps=1"]
    outcome = run_script("train.py", "benchmark=none", "output_dir=run", *args)
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").is_file()
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["fingerprint"]["adapter"] is not None
    assert not (tmp_path / "run" / "results.json").exists()


BLOWN_UP = ["optim.optimizer.lr=inf", "optim.scheduler.num_warmup_steps=0"]
VALIDATED = "validation=world"
CONSTANT = "optim.scheduler._target_=transformers.optimization.get_constant_schedule"  # takes no number of steps


def refuse_to(monkeypatch, place, work):
    """A stage that a run must not come to."""

    def reached(*_, **__):
        raise AssertionError(f"the run came to {work}")

    monkeypatch.setattr(place, reached)


def assert_refused(outcome, message):
    assert outcome.code == 1
    assert re.search(message, " ".join(outcome.err.split())), outcome.err
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize("place", ["gen2embed.runs.make_embedder", "gen2embed.mining.mine.mine_pairs"])
def test_a_run_without_a_mistake_comes_to_the_model_and_the_miner(train, monkeypatch, place):
    """So that the tests below are of runs that ended before."""
    refuse_to(monkeypatch, place, "the stage")
    with pytest.raises(AssertionError, match="came to the stage"):
        train("paths.cluster_dir=fresh")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["batch.pairs=20"], r"batch.pairs=20 cannot be split into whole clusters of 8 pairs; set it to 16 or 24"),
        (["batch.weights={shape: 1, t2j: 1}"], r"batch.weights has no subset t2j; .*\(did you mean"),
        (["batch.weights={shape: 1, t2i: 1}", "batch.temperature=2"], r"batch.weights and batch.temperature both say"),
        (["batch.temperature=0"], r"batch.temperature is above 0; got 0"),
        (["batch.chunk=0"], r"batch.chunk is at least 1, or null; got 0"),
        (["loss.temperature=0"], r"loss.temperature is above 0; got 0"),
        (["loss._target_=gen2embed_mine.Loss"], r"loss._target_='gen2embed_mine.Loss' names nothing"),
        (["optim.optimizer.lr=-1"], r"optim.optimizer cannot be built: Invalid learning rate: -1"),
        ([CONSTANT, "~optim.scheduler.num_warmup_steps"], r"optim.scheduler cannot be built: .*num_training_steps"),
        (["optim.gradient_clip=0"], r"optim.gradient_clip is above 0, or null"),
        (["shortcuts.retain_graphs=-1"], r"shortcuts.retain_graphs is a number of chunks"),
        (["callbacks.checkpoints.keep=0"], r"callbacks.checkpoints.keep is at least 1; got 0"),
        (["compression=default", "compression.precisions=[int3]"], r"compression.precisions"),
        ([VALIDATED, "validation.every_n_steps=0"], r"validation.every_n_steps is at least 1; got 0"),
        ([VALIDATED, "validation.keep=first"], r"validation.keep is best or last; got first"),
        ([VALIDATED, "validation.patience=0"], r"validation.patience is at least 1, or null .*; got 0"),
        (["validation=mmeb", "benchmark@validation.benchmark=all"], r"validation"),
        (["data.clusters=nowhere.parquet"], r"the clusters nowhere.parquet do not exist"),
        (["data.subsets=[none]"], r"the world has no subset none; choose from shape, colour"),
        (["checkpoint=nowhere"], r"the checkpoint folder nowhere does not exist"),
        (["mining.top_k=0"], r"mining.top_k and pool_multiplier are at least 1; got 0 and 3"),
    ],
)  # fmt: skip
def test_what_is_refused_before_the_model_is_loaded(train, args, message, monkeypatch):
    refuse_to(monkeypatch, "gen2embed.runs.make_embedder", "the model")
    assert_refused(train(*args, "engine.store=null"), message)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["loss.dims=[256]"], r"loss.dims=\[256\] go beyond the model's vectors of 128 elements"),
        (["adapter.target_modules=[nothing]"], r"adapter.target_modules=\['nothing'\] match no module"),
        (["compression=default", "compression.dims=[256]"], r"compression.dims"),
    ],
)
def test_what_is_refused_before_mining(train, args, message, monkeypatch):
    refuse_to(monkeypatch, "gen2embed.mining.mine.mine_pairs", "the miner")
    assert_refused(train(*args, "engine.store=null"), message)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["mining.top_k=30", "batch.pairs=31"], r"mining.top_k=30 is larger than the data: subset shape has 24 rows"),
        (BLOWN_UP, r"the loss is nan at step \d: the embeddings of (shape|t2i) row \d+.* are not finite"),
    ],
)
def test_what_is_refused_by_the_data_and_the_steps(train, args, message):
    assert_refused(train(*args, "engine.store=null"), message)


def test_a_miner_that_asks_too_much(run_script, world):
    rows = [f"data.folder={world.folder}", "data.rows=24"]
    outcome = run_script("mine.py", "mining.top_k=24", "data.subsets=[t2i]", *rows)
    assert outcome.code == 1
    assert "error: mining.top_k=24 is larger than the data: subset t2i has 24 rows" in outcome.err
    assert "queries" not in outcome.err  # nothing was embedded
    outcome = run_script("mine.py", "mining=none", *rows)
    assert "error: mining=none mines nothing; choose another miner" in outcome.err
