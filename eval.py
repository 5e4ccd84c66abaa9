"""Evaluate a multimodal LLM as an embedder; `python eval.py --help` shows the options."""

import time

from hydra.utils import instantiate
from omegaconf import DictConfig

from gen2embed import UserError, runs, training
from gen2embed.runs.entry import entry_point


@entry_point("eval")
def main(cfg: DictConfig) -> None:
    started = time.perf_counter()
    trainer = runs.make_trainer(cfg)
    if cfg.benchmark is None:
        raise UserError("benchmark=none evaluates nothing; choose another benchmark")
    runs.check_sources(cfg)
    folder = runs.start(cfg, trainer)
    with training.connect_ranks(trainer) as ranks:
        benchmarks = runs.make_benchmarks(cfg, cfg.benchmark, trainer)
        embedder, engine = runs.make_embedder(cfg, trainer), instantiate(cfg.engine)
        if ranks.rank == 0:
            runs.print_table(runs.summary_table(embedder, benchmarks, engine, folder))
        runs.evaluate_and_report(cfg, trainer, embedder, engine, benchmarks, started, ranks)


if __name__ == "__main__":
    main()
