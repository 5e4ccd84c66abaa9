"""Fine-tune a multimodal LLM as an embedder, and evaluate it; `python train.py --help` shows the options."""

import time
from dataclasses import replace
from functools import partial
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig

from gen2embed import mining, runs, search, training
from gen2embed.config.values import plain
from gen2embed.runs.entry import entry_point


@entry_point("train")
def main(cfg: DictConfig) -> None:
    """Build the parts, mine, fit, save, evaluate."""
    started, folder, facts = time.perf_counter(), Path(cfg.output_dir), {}

    # 1. Build the parts. One that cannot work is refused before the model is loaded, or at the latest before mining.
    trainer = runs.make_trainer(cfg)
    resume = training.Resume(plain(cfg), trainer)
    search.allow_tf32(cfg.tf32)
    runs.check_sources(cfg)
    runs.check_training(cfg, trainer)
    recipe = runs.make_recipe(cfg, trainer)
    runs.start(cfg, trainer, write=resume.checkpoint is None, continues=resume.checkpoint is not None)
    engine, searcher, miner = instantiate(cfg.engine), runs.make_search(cfg, trainer), runs.make_miner(cfg)
    data = instantiate(cfg.data, _convert_="all")
    pairs = runs.read_pairs(data, trainer, folder)
    clusters = mining.read_clusters(Path(data.clusters), pairs) if data.clusters else None
    plan = training.plan_batches(pairs, recipe.batch, cfg.seed, resume.ranks, clusters or miner)
    benchmarks = runs.make_benchmarks(cfg, cfg.benchmark, trainer) if trainer.is_global_zero else []
    validation = runs.make_validation(cfg, trainer, engine)
    embedder = runs.make_embedder(cfg, trainer)
    runs.make_compression(cfg, embedder)  # the evaluation, at the end, would be the first to refuse it

    if recipe.adapter is not None:
        recipe.check(embedder)
        if clusters:
            training.check_clusters(
                clusters, embedder, pairs, any_model=data.clusters_of_any_model, warn=trainer.is_global_zero
            )

        # 2. Mine, unless data.clusters names clusters, or mining=none wants none.
        elif miner:
            store = Path(cfg.paths.cluster_dir)
            clusters = training.mine_on_rank_zero(
                trainer, embedder, engine, pairs, miner, data.classification, searcher, store
            )

        # 3. Fit.
        plan = replace(plan, members=clusters.members if clusters else [])
        sampler = training.RankBatchSampler(plan, trainer.global_rank, ranks=trainer.world_size)
        resume.check(embedder, pairs, plan)
        fit = training.prepare_fit(trainer, recipe, embedder, pairs, sampler)
        if trainer.is_global_zero:
            runs.write_config(cfg)
            training.copy_clusters(clusters, folder)
            runs.print_table(runs.training_table(fit, cfg.trainer.precision, cfg.tf32, trainer.max_steps, folder))
        embedder = fit.run(trainer, resume, validation)
        facts["training_inputs_cut"] = fit.module.cut.describe()

        # 4. Save the adapter.
        if trainer.is_global_zero:
            embedder = training.save_adapter(folder, embedder, validation, partial(runs.make_embedder, cfg, trainer))

    # 5. Evaluate.
    if trainer.is_global_zero:
        runs.evaluate_and_report(cfg, trainer, embedder, engine, benchmarks, started, more=facts)


if __name__ == "__main__":
    main()
