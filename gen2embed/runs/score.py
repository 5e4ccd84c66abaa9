"""Score an embedder, and leave all that people and programs look for in the run's folder."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from lightning import Trainer
from omegaconf import DictConfig

from gen2embed.config.values import plain
from gen2embed.data.benchmark import Benchmark
from gen2embed.encoding.engine import Engine
from gen2embed.evaluation.evaluate import evaluate
from gen2embed.evaluation.leaderboard import leaderboard
from gen2embed.model.embedder import Embedder
from gen2embed.outputs import redacted
from gen2embed.reports.evaluation.page import write_report
from gen2embed.runs import console, results
from gen2embed.runs.sweeps import input_digests
from gen2embed.utils.rank_group import ALONE, RankGroup

NOTHING: Mapping[str, Any] = {}


def evaluate_and_report(
    cfg: DictConfig,
    trainer: Trainer,
    embedder: Embedder,
    engine: Engine,
    benchmarks: Sequence[Benchmark],
    started: float,
    peers: RankGroup = ALONE,
    more: Mapping[str, Any] = NOTHING,
) -> None:
    """Score the embedder, and leave results, report and logs in the run's folder. started: of the run, in seconds.

    more: what else the manifests say.

    Each of `peers` embeds its part; rank 0 leaves what there is.

    Of several benchmarks, each has a folder of its own below, and the run's `results.json` holds all scores.
    """
    folder, config, every = Path(cfg.output_dir), plain(cfg), {}
    if (compression := instantiate(cfg.compression, _convert_="all")) is not None:
        compression.settings(embedder.dim)
    more = {**more, "inputs": input_digests(config)} if peers.rank == 0 else more
    for benchmark in benchmarks:
        model = embedder.at_resolution(benchmark.resolution) if benchmark.resolution else embedder
        evaluation = evaluate(model, engine, benchmark, cfg.bootstrap, cfg.seed, compression, peers)
        if peers.rank > 0:
            continue
        timing = results.timing(evaluation.encoded, time.perf_counter() - started)
        run = results.manifest(config, model.fingerprint, {**timing, **more})
        its_folder = folder / benchmark.name if len(benchmarks) > 1 else folder
        results.write_results(its_folder, evaluation.scores, evaluation.predictions, run)
        if benchmark.name == "mmeb":
            redacted.write_json(its_folder / "leaderboard.json", leaderboard(evaluation.scores, model))
        console.print_table(console.score_table(evaluation.scores))
        if compression is not None:
            console.print_table(console.compression_table(evaluation.scores))
        every[benchmark.name] = evaluation.scores
    if peers.rank > 0:
        return
    results.log_scores(trainer.loggers, list(every.values()), config)
    if len(benchmarks) > 1:
        redacted.write_json(folder / "results.json", {"benchmarks": every})
    if len(benchmarks) != 1:
        timing = results.timing((), time.perf_counter() - started)
        run = results.manifest(config, embedder.fingerprint, {**timing, **more})
        redacted.write_json(folder / "manifest.json", run)
    if benchmarks:
        write_report([folder], folder / "report.html", cfg.report_queries, cfg.seed, benchmarks)
