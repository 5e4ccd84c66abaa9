"""Mine clusters of training pairs; `python mine.py --help` shows the options."""

import time

from hydra.utils import instantiate
from omegaconf import DictConfig

from gen2embed.config.values import plain
from gen2embed.mining.clusters import write_clusters
from gen2embed.mining.mine import mine_pairs
from gen2embed.mining.skipped import skipped_owners, write_skipped
from gen2embed.outputs import redacted
from gen2embed.reports.mining.page import write_report
from gen2embed.runs import console, results
from gen2embed.runs.build import check_sources, make_embedder, make_search, make_trainer, read_pairs
from gen2embed.runs.entry import entry_point, start
from gen2embed.runs.sweeps import input_digests
from gen2embed.training.strategies import connect_ranks
from gen2embed.utils.errors import UserError


@entry_point("mine")
def main(cfg: DictConfig) -> None:
    started = time.perf_counter()
    trainer = make_trainer(cfg)
    if cfg.mining is None:
        raise UserError("mining=none mines nothing; choose another miner")
    check_sources(cfg)
    folder = start(cfg, trainer)
    with connect_ranks(trainer) as peers:
        data = instantiate(cfg.data, _convert_="all")
        pairs = read_pairs(data, trainer, folder)
        embedder, engine, search = make_embedder(cfg, trainer), instantiate(cfg.engine), make_search(cfg, trainer)
        miner = instantiate(cfg.mining)
        mined = mine_pairs(embedder, engine, pairs, miner, data.classification, search, peers)
        if mined is None:
            return
        write_clusters(folder / "clusters.parquet", mined.table, mined.manifest)
        write_skipped(folder / "skipped.parquet", skipped_owners(mined, pairs, miner, cfg.seed))
        timing = results.timing(mined.encoded, time.perf_counter() - started)
        more = {**timing, "inputs": input_digests(plain(cfg))}
        redacted.write_json(folder / "manifest.json", results.manifest(plain(cfg), embedder.fingerprint, more))
        results.log_values(trainer.loggers, {"clusters": mined.table.num_rows, **timing}, plain(cfg))
        console.print_table(console.cluster_table(mined.table, pairs))
        write_report(folder, pairs)


if __name__ == "__main__":
    main()
