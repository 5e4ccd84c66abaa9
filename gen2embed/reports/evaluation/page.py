"""The page of evaluation runs, `report.html`: from their results and, for the queries shown, from their benchmarks."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from markupsafe import Markup

from gen2embed.config.schema import make_saved
from gen2embed.data.benchmark import Benchmark, list_benchmarks
from gen2embed.reports.evaluation import charts
from gen2embed.reports.evaluation.explorer import RIGHT_ANSWERS, TEXT, WRONG, explore
from gen2embed.reports.evaluation.results import EvaluationRun, Result, read_runs
from gen2embed.reports.evaluation.tables import RESAMPLES, make_table
from gen2embed.reports.html import write_page
from gen2embed.utils.errors import UserError
from gen2embed.utils.fingerprints import flat, without

IGNORED = ("output_dir", "paths", "logger", "callbacks", "report_queries")  # settings that decide no score


def write_report(
    folders: Sequence[Path], output: Path, queries: int, seed: int = 0, benchmarks: Sequence[Benchmark] | None = None
) -> None:
    """Write the page of a run, or of several runs; the others are compared with the first.

    Args:
        folders: The folders of the runs.
        output: The page.
        queries: The number of queries that are shown of each task; 0 for none.
        seed: The seed of their choice and of the bootstrap.
        benchmarks: The benchmarks of the runs; None reads those that the first run's manifest names.

    Raises:
        UserError: For folders without results, for runs that are not of the same queries, and for benchmarks or
            pictures that are gone.
    """
    check_count(queries)
    runs = read_runs(folders)
    explorer = None
    if queries:
        if benchmarks is None:
            benchmarks = read_benchmarks(runs[0])
        explorer = explore(runs, benchmarks, queries, seed)
    script = (files("gen2embed.reports.evaluation") / "explorer.js").read_text()
    write_page(
        output,
        "evaluation/page.html",
        runs=runs,
        facts=[_facts(run) for run in runs],
        settings=_settings(runs),
        sections=[_section(runs, name, seed) for name in runs[0].results],
        explorer=explorer,
        script=Markup(script),
        allowed="sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        options={
            "queries": queries,
            "seed": seed,
            "wrong": WRONG,
            "rights": RIGHT_ANSWERS,
            "text": TEXT,
            "resamples": RESAMPLES,
        },
    )


def check_count(queries: int | None) -> None:
    """Raise `UserError` for a number of queries that cannot be shown."""
    if queries is None or queries < 0:
        raise UserError(f"report_queries is a number of queries of each task, 0 for none; got {queries}")


def read_benchmarks(run: EvaluationRun) -> list[Benchmark]:
    """Return a run's benchmarks, read again; raises `UserError` where they are no longer as its manifest says."""
    chosen = next(iter(run.results.values())).manifest["config"]["benchmark"]
    try:
        if "_target_" in chosen:
            return list_benchmarks(make_saved(chosen, "benchmark"))
        return list_benchmarks({name: make_saved(call, "benchmark") for name, call in chosen.items()})
    except Exception as error:
        cause = error if isinstance(error, UserError) else error.__cause__
        if not isinstance(cause, UserError):
            raise
        raise UserError(
            f"the benchmark of {run.name} is not where its manifest says: {cause}; relative paths start in the folder "
            "where it ran; --queries 0 makes the report without it"
        ) from None


# --- facts of runs --------------------------------------------------------------------------------------------------


def _facts(run: EvaluationRun) -> dict[str, list[str]]:
    """Return the parts and circumstances of a run, by name, as lines, of which the first is the short form."""
    manifests = [result.manifest for result in run.results.values()]
    manifest, fingerprint = manifests[0], manifests[0]["fingerprint"]
    config, hardware = manifest["config"], manifest["hardware"]
    path, checkpoint, adapter = Path(config["model"]["path"]), config.get("checkpoint"), fingerprint["adapter"]
    commit = manifest["git_commit"] or "none, run outside of a checkout"
    prompt = fingerprint["prompt"]
    texts = [(f"system, {role}", text) for role, text in prompt["system"].items()]
    texts += [
        (f"suffix, {role}, {kind}", text) for role, kinds in prompt["suffix"].items() for kind, text in kinds.items()
    ]
    gpus = ", ".join(dict.fromkeys(hardware["gpus"]))
    where = f"{len(hardware['gpus'])} x {gpus}" if gpus else f"{hardware['machine']}, {hardware['threads']} threads"
    seconds = manifests[-1]["wall_seconds"]  # since the run began
    levels = [level for level in ("system", "suffix") if prompt[level]]
    return {
        "benchmark": [", ".join(run.results)],
        "model": ["/".join(path.parts[-2:]), f"{path}, {fingerprint['model']}, {fingerprint['dtype']}"],
        "adapter": [Path(checkpoint).name, checkpoint, adapter] if checkpoint and adapter else [adapter or "none"],
        "prompt": [
            f"{' and '.join(levels) or 'none'}, {prompt['convention']} convention",
            *(f"{name}: {text.strip()}" for name, text in texts),
        ],
        "resolution": list(dict.fromkeys(map(_resolution, manifests))),
        "commit": list(dict.fromkeys([re.sub(r"^([0-9a-f]{12})[0-9a-f]*", r"\1", commit), commit])),
        "date": [f"{date[:16].replace('T', ' ')} UTC" if (date := manifest.get("date")) else "not recorded"],
        "hardware": [where],
        "time": [f"{seconds:,.0f} s"],
    }


def _resolution(manifest: Mapping[str, Any]) -> str:
    resolution = manifest["fingerprint"]["resolution"]
    bounds = [f"{key} {resolution[key]}" for key in ("min_pixels", "max_pixels") if resolution[key]]
    return ", ".join([resolution["policy"], *bounds, f"backend {resolution['backend']}"])


def _settings(runs: Sequence[EvaluationRun]) -> dict[str, list[str]]:
    """Return the settings that differ between runs, by their keys."""
    configs = [next(iter(run.results.values())).manifest["config"] for run in runs]
    settings = [dict(flat(without(config, IGNORED))) for config in configs]
    rows = {
        key: [json.dumps(run[key], ensure_ascii=False) if key in run else "–" for run in settings]
        for key in dict.fromkeys(key for run in settings for key in run)
    }
    return {key: values for key, values in rows.items() if len(set(values)) > 1}


# --- a benchmark ----------------------------------------------------------------------------------------------------


def _section(runs: Sequence[EvaluationRun], benchmark: str, seed: int) -> dict[str, Any]:
    """Return one benchmark as the template shows it."""
    names, results = [run.name for run in runs], [run.results[benchmark] for run in runs]
    table = make_table(results, seed)

    wide = {"Scores": charts.by_task(charts.scores(table, names), table.tasks, f"Scores of every task of {benchmark}")}
    if len(runs) > 1:
        draw, name = charts.differences(table, names), f"Differences to {names[0]} in every task of {benchmark}"
        wide["Differences"] = charts.by_task(draw, table.tasks, name)
    drawn = {}
    if labelled := charts.rank_groups(names, results):
        drawn["Rank of the right answer"] = charts.small(
            charts.ranks(labelled), f"Share of queries over the rank of the right answer, {benchmark}"
        )
    if len(runs) == 1:
        labelled = charts.similarity_groups(results[0])
        drawn["Best answers"] = charts.small(
            charts.best_similarities(labelled), f"Histogram of the similarity of best answers, {benchmark}"
        )
    return {
        "benchmark": benchmark,
        "table": table,
        "queries": sum(row.scores[0]["queries"] for row in table.tasks if row.scores[0]),
        "ranked": any("mrr" in row.scores[0] for row in table.tasks if row.scores[0]),
        "wide": wide,
        "charts": drawn,
        "compressed": [
            _compressed(run.name, result, benchmark)
            for run, result in zip(runs, results, strict=True)
            if "compression" in result.scores
        ],
    }


def _compressed(run: str, result: Result, benchmark: str) -> dict[str, Any]:
    """Return scores by dimension, a line, and precision, a column."""
    entries = result.scores["compression"]
    cells = {(entry["dim"], entry["precision"]): entry for entry in entries}
    precisions = list(dict.fromkeys(entry["precision"] for entry in entries))
    return {
        "run": run,
        "precisions": precisions,
        "rows": [
            (dim, [cells.get((dim, precision)) for precision in precisions])
            for dim in sorted({entry["dim"] for entry in entries}, reverse=True)
        ],
        "chart": charts.small(charts.compression(entries), f"Score over dimension, {benchmark}, {run}"),
    }
