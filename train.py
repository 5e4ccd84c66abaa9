"""Fine-tune a multimodal LLM as an embedder, and evaluate it; `python train.py --help` shows the options."""

import time
from dataclasses import replace
from functools import partial
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig

from gen2embed.config.values import plain
from gen2embed.mining.clusters import read_clusters
from gen2embed.runs import build, console
from gen2embed.runs.entry import entry_point, start, write_config
from gen2embed.runs.score import evaluate_and_report
from gen2embed.search.products import allow_tf32
from gen2embed.training.batches import RankBatchSampler
from gen2embed.training.fit import prepare_fit, save_adapter
from gen2embed.training.plan import check_clusters, copy_clusters, mine_clusters, plan_batches
from gen2embed.training.resume import Resume


@entry_point("train")
def main(cfg: DictConfig) -> None:
    """Build the parts, mine, fit, save, evaluate."""
    started, folder, notes = time.perf_counter(), Path(cfg.output_dir), {}

    # 1. Build the parts: what is wrong with one is said before the model is loaded, or at the latest before mining.
    trainer = build.make_trainer(cfg)
    resume = Resume(plain(cfg), trainer)
    allow_tf32(cfg.tf32)
    build.check_sources(cfg)
    build.check_training(cfg, trainer)
    recipe = build.make_recipe(cfg, trainer)
    start(cfg, trainer, write=resume.checkpoint is None, continues=resume.checkpoint is not None)
    engine, search, miner = instantiate(cfg.engine), build.make_search(cfg, trainer), instantiate(cfg.mining)
    data = instantiate(cfg.data, _convert_="all")
    pairs = build.read_pairs(data, trainer, folder)
    clusters = read_clusters(Path(data.clusters), pairs) if data.clusters else None
    plan = plan_batches(pairs, recipe.batch, cfg.seed, resume.ranks, clusters or miner)
    benchmarks = build.make_benchmarks(cfg, cfg.benchmark, trainer) if trainer.is_global_zero else []
    validation = build.make_validation(cfg, trainer, engine)
    embedder = build.make_embedder(cfg, trainer)
    build.check_compression(cfg, embedder)

    if recipe.adapter is not None:
        recipe.check(embedder)
        if clusters:
            check_clusters(clusters, embedder, pairs, any_model=data.clusters_of_any_model, warn=trainer.is_global_zero)

        # 2. Mine, unless there are clusters already, or none are wanted.
        elif miner:
            store = Path(cfg.paths.cluster_dir)
            clusters = mine_clusters(trainer, embedder, engine, pairs, miner, data.classification, search, store)

        # 3. Fit.
        plan = replace(plan, members=clusters.members if clusters else [])
        sampler = RankBatchSampler(plan, trainer.global_rank, ranks=trainer.world_size)
        resume.check(embedder, pairs, plan)
        fit = prepare_fit(trainer, recipe, embedder, pairs, sampler)
        if trainer.is_global_zero:
            write_config(cfg)
            copy_clusters(clusters, folder)
            console.print_table(console.training_table(fit, cfg.trainer.precision, cfg.tf32, trainer.max_steps, folder))
        embedder = fit.run(trainer, resume, validation)
        notes["training_inputs_cut"] = fit.module.cut.describe()

        # 4. Save the adapter.
        if trainer.is_global_zero:
            embedder = save_adapter(folder, embedder, validation, partial(build.make_embedder, cfg, trainer))

    # 5. Evaluate.
    if trainer.is_global_zero:
        evaluate_and_report(cfg, trainer, embedder, engine, benchmarks, started, more=notes)


if __name__ == "__main__":
    main()
