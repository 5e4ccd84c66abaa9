"""Score an embedder on benchmarks, and write results, report and logs in the run's folder."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lightning import Trainer
from omegaconf import DictConfig

from gen2embed.config.values import plain
from gen2embed.data.benchmark import Benchmark, ModelFacts
from gen2embed.encoding.engine import Engine
from gen2embed.evaluation.evaluate import evaluate
from gen2embed.model.embedder import Embedder
from gen2embed.outputs import redacted
from gen2embed.reports.evaluation.page import write_report
from gen2embed.runs import console, results
from gen2embed.runs.build import make_compression
from gen2embed.runs.sweeps import input_digests
from gen2embed.utils.rank_group import ALONE, RankGroup


def evaluate_and_report(
    cfg: DictConfig,
    trainer: Trainer,
    embedder: Embedder,
    engine: Engine,
    benchmarks: Sequence[Benchmark],
    started: float,
    ranks: RankGroup = ALONE,
    more: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Score the embedder, and write results, report and logs in the run's folder.

    Every rank embeds its part, and rank 0 writes. If there are several benchmarks, each has a folder below the run's,
    and the run's `results.json` holds all scores.

    Args:
        cfg: The configuration.
        trainer: Has the loggers.
        embedder: The embedder.
        engine: Encodes the items.
        benchmarks: The benchmarks, which may be none.
        started: When the run started, by `time.perf_counter`.
        ranks: The ranks that share the work.
        more: Further entries of the manifests.
    """
    folder, config, scores = Path(cfg.output_dir), plain(cfg), {}
    compression = make_compression(cfg, embedder)
    more = {**more, "inputs": input_digests(config)} if ranks.rank == 0 else more
    for benchmark in benchmarks:
        model = embedder.at_resolution(benchmark.resolution) if benchmark.resolution else embedder
        evaluation = evaluate(model, engine, benchmark, cfg.bootstrap, cfg.seed, compression, ranks)
        if ranks.rank > 0:
            continue
        timing = results.timing(evaluation.encoded, time.perf_counter() - started)
        run = results.manifest(config, model.fingerprint, {**timing, **more})
        place = folder / benchmark.name if len(benchmarks) > 1 else folder
        results.write_results(place, evaluation.scores, evaluation.predictions, run)
        for name, score_sheet in benchmark.score_sheets.items():
            redacted.write_json(place / name, score_sheet(evaluation.scores, _facts_of(model)))
        console.print_table(console.score_table(evaluation.scores))
        if compression is not None:
            console.print_table(console.compression_table(evaluation.scores))
        scores[benchmark.name] = evaluation.scores
    if ranks.rank > 0:
        return
    results.log_scores(trainer.loggers, list(scores.values()), config)
    if len(benchmarks) > 1:
        redacted.write_json(folder / "results.json", {"benchmarks": scores})
    if len(benchmarks) != 1:
        timing = results.timing((), time.perf_counter() - started)
        run = results.manifest(config, embedder.fingerprint, {**timing, **more})
        redacted.write_json(folder / "manifest.json", run)
    if benchmarks:
        write_report([folder], folder / "report.html", cfg.report_queries, cfg.seed, benchmarks)


def _facts_of(embedder: Embedder) -> ModelFacts:
    backbone = embedder.backbone
    return ModelFacts(
        name=str(backbone.name),
        adapter=backbone.adapter,
        model_type=backbone.model_type,
        parameters=backbone.parameters,
        dim=embedder.dim,
        max_length=embedder.build.max_length,
    )
