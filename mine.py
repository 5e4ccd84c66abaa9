"""Mine clusters of training pairs; `python mine.py --help` shows the options."""

import time

from hydra.utils import instantiate
from omegaconf import DictConfig

from gen2embed import UserError, mining, outputs, runs, training
from gen2embed.config.values import plain
from gen2embed.reports import mining as mining_report
from gen2embed.runs.entry import entry_point
from gen2embed.runs.sweeps import input_digests


@entry_point("mine")
def main(cfg: DictConfig) -> None:
    started = time.perf_counter()
    trainer = runs.make_trainer(cfg)
    if (miner := runs.make_miner(cfg)) is None:
        raise UserError("mining=none mines nothing; choose another miner")
    runs.check_sources(cfg)
    folder = runs.start(cfg, trainer)
    with training.connect_ranks(trainer) as ranks:
        data = instantiate(cfg.data, _convert_="all")
        pairs = runs.read_pairs(data, trainer, folder)
        engine, search = instantiate(cfg.engine), runs.make_search(cfg, trainer)
        embedder = runs.make_embedder(cfg, trainer)
        mined = mining.mine_pairs(embedder, engine, pairs, miner, data.classification, search, ranks)
        if mined is None:  # another rank has written the clusters
            return
        mining.write_clusters(folder / "clusters.parquet", mined.table, mined.manifest)
        mining.write_skipped(folder / "skipped.parquet", mining.skipped_owners(mined, pairs, miner, cfg.seed))
        timing = runs.timing(mined.encoded, time.perf_counter() - started)
        entries = {**timing, "inputs": input_digests(plain(cfg))}
        outputs.write_json(folder / "manifest.json", runs.manifest(plain(cfg), embedder.fingerprint, entries))
        runs.log_values(trainer.loggers, {"clusters": mined.table.num_rows, **timing}, plain(cfg))
        runs.print_table(runs.cluster_table(mined.table, pairs))
        mining_report.write_report(folder, pairs)


if __name__ == "__main__":
    main()
