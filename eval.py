"""Evaluate a multimodal LLM as an embedder; `python eval.py --help` shows the options."""

import time

from hydra.utils import instantiate
from omegaconf import DictConfig

from gen2embed.runs import console
from gen2embed.runs.build import check_sources, make_benchmarks, make_embedder, make_trainer
from gen2embed.runs.entry import entry_point, start
from gen2embed.runs.score import evaluate_and_report
from gen2embed.training.strategies import connect_ranks
from gen2embed.utils.errors import UserError


@entry_point("eval")
def main(cfg: DictConfig) -> None:
    started = time.perf_counter()
    trainer = make_trainer(cfg)
    if cfg.benchmark is None:
        raise UserError("benchmark=none evaluates nothing; choose another benchmark")
    check_sources(cfg)
    folder = start(cfg, trainer)
    with connect_ranks(trainer) as peers:
        benchmarks = make_benchmarks(cfg, cfg.benchmark, trainer)
        embedder, engine = make_embedder(cfg, trainer), instantiate(cfg.engine)
        if peers.rank == 0:
            console.print_table(console.summary_table(embedder, benchmarks, engine, folder))
        evaluate_and_report(cfg, trainer, embedder, engine, benchmarks, started, peers)


if __name__ == "__main__":
    main()
