"""Fine-tune a multimodal LLM as an embedder, and evaluate it; `python train.py --help` shows the options."""

import shutil
import time
from dataclasses import replace
from pathlib import Path

from hydra.utils import instantiate
from lightning import seed_everything
from omegaconf import DictConfig

from gen2embed import images, report
from gen2embed.data.batches import BatchPlan, check_sizes
from gen2embed.data.clusters import check_miner, read_clusters
from gen2embed.data.datamodules import Collate, PairDataModule
from gen2embed.encoder.adapter import save
from gen2embed.lit import ContrastiveModule
from gen2embed.miners import mine_once
from gen2embed.runs import (
    check_sources,
    entry_point,
    evaluate_and_report,
    make_benchmarks,
    make_embedder,
    make_trainer,
    start,
)


@entry_point("train")
def main(cfg: DictConfig) -> None:
    started = time.perf_counter()
    folder, trainer = start(cfg), make_trainer(cfg)
    check_sources(cfg)
    data = instantiate(cfg.data, _convert_="all")
    pairs, miner = data.pairs(), instantiate(cfg.mining)
    check_sizes(len(pairs), cfg.batch.pairs, cfg.batch.chunk, miner.top_k + 1 if miner and not data.clusters else 1)
    clusters = read_clusters(Path(data.clusters), pairs) if data.clusters else None
    benchmarks = make_benchmarks(cfg)
    images.check((picture for pair in pairs for picture in pair.pictures), data.roots)

    embedder, engine = make_embedder(cfg, trainer), instantiate(cfg.engine)
    if clusters and not data.clusters_of_any_model:
        check_miner(clusters, embedder.backbone.identity)
    elif miner and not clusters:
        kept = Path(cfg.paths.cluster_dir)
        clusters = read_clusters(mine_once(kept, embedder, engine, pairs, miner, data.classification), pairs)
    if clusters:
        shutil.copyfile(clusters.path, folder / "clusters.parquet")
    plan = BatchPlan(clusters.members if clusters else [], len(pairs), cfg.batch.pairs, cfg.seed)

    seed_everything(cfg.seed, workers=True, verbose=False)
    embedder = replace(embedder, backbone=instantiate(cfg.adapter).attach(embedder.backbone))
    module = ContrastiveModule(embedder, instantiate(cfg.loss), **instantiate(cfg.optim))
    report.print_table(report.training_table(embedder, plan, cfg.batch.chunk, trainer.max_steps, folder))
    trainer.fit(module, PairDataModule(pairs, plan, Collate(embedder.build, cfg.batch.chunk), cfg.batch.workers))
    module.eval()
    trained = save(embedder.backbone, embedder.build.prompt, embedder.build.resolution, folder / "adapter")
    embedder = replace(embedder, backbone=trained)

    evaluate_and_report(cfg, trainer, embedder, engine, benchmarks, started)


if __name__ == "__main__":
    main()
