"""Fine-tune a multimodal LLM as an embedder, and evaluate it; `python train.py --help` shows the options."""

import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hydra.utils import instantiate
from lightning import seed_everything
from omegaconf import DictConfig

from gen2embed import images, report
from gen2embed.data.batches import BatchPlan, check_sizes
from gen2embed.data.clusters import read_clusters
from gen2embed.data.datamodules import Collate, PairDataModule
from gen2embed.data.mmeb import pictures
from gen2embed.data.world import World
from gen2embed.encoder.adapter import save
from gen2embed.encoder.embedder import Embedder
from gen2embed.encoder.engine import Engine
from gen2embed.lit import ContrastiveModule
from gen2embed.miners import Miner, mine_once
from gen2embed.runs import check_sources, entry_point, evaluate_and_report, make_embedder, make_trainer, start
from gen2embed.types import Pair


@entry_point("train")
def main(cfg: DictConfig) -> None:
    started = time.perf_counter()
    folder, trainer = start(cfg), make_trainer(cfg)
    check_sources(cfg)
    data, benchmark = (instantiate(node, _convert_="all") for node in (cfg.data, cfg.benchmark))
    pairs, miner = data.pairs(), instantiate(cfg.mining)
    check_sizes(len(pairs), cfg.batch.pairs, cfg.batch.chunk, miner.top_k + 1 if miner and not data.clusters else 1)
    if data.clusters:
        read_clusters(Path(data.clusters), pairs)
    images.check(pictures(benchmark), [benchmark.image_dir])
    images.check(picture for pair in pairs for item in (pair.query, pair.positive) for picture in item.pictures)

    embedder, engine = make_embedder(cfg, trainer), instantiate(cfg.engine)
    clusters = find_clusters(Path(cfg.paths.cluster_dir), embedder, engine, pairs, data, miner)
    members: Sequence[Sequence[int]] = []
    if clusters:
        model = None if data.clusters_of_any_model else embedder.backbone.identity
        members = read_clusters(clusters, pairs, model).members
        shutil.copyfile(clusters, folder / "clusters.parquet")
    plan = BatchPlan(members, len(pairs), cfg.batch.pairs, cfg.seed)

    seed_everything(cfg.seed, workers=True, verbose=False)
    embedder = replace(embedder, backbone=instantiate(cfg.adapter).attach(embedder.backbone))
    module = ContrastiveModule(embedder, instantiate(cfg.loss), **instantiate(cfg.optim))
    report.print_table(report.training_table(embedder, plan, cfg.batch.chunk, trainer.max_steps, folder))
    trainer.fit(module, PairDataModule(pairs, plan, Collate(embedder.build, cfg.batch.chunk), cfg.batch.workers))
    module.eval()
    trained = save(embedder.backbone, embedder.build.prompt, embedder.build.resolution, folder / "adapter")
    embedder = replace(embedder, backbone=trained)

    evaluate_and_report(cfg, trainer, embedder, engine, benchmark, started)


def find_clusters(
    folder: Path, embedder: Embedder, engine: Engine, pairs: Sequence[Pair], data: World, miner: Miner | None
) -> Path | None:
    """The clusters that the user names, else the miner's, mined once for all runs; None for random batches."""
    if data.clusters:
        return Path(data.clusters)
    return mine_once(folder, embedder, engine, pairs, miner, data.classification) if miner else None


if __name__ == "__main__":
    main()
