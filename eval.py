"""Evaluate a multimodal LLM as an embedder; `python eval.py --help` shows the options."""

import time

from hydra.utils import instantiate
from omegaconf import DictConfig

from gen2embed import images, report
from gen2embed.data.mmeb import pictures
from gen2embed.runs import check_sources, entry_point, evaluate_and_report, make_embedder, make_trainer, start


@entry_point("eval")
def main(cfg: DictConfig) -> None:
    started = time.perf_counter()
    trainer = make_trainer(cfg)
    folder = start(cfg, trainer)
    check_sources(cfg)
    benchmark = instantiate(cfg.benchmark, _convert_="all")
    images.check(pictures(benchmark), [benchmark.image_dir])

    embedder, engine = make_embedder(cfg, trainer), instantiate(cfg.engine)
    report.print_table(report.summary_table(embedder, benchmark, engine, folder))

    evaluate_and_report(cfg, trainer, embedder, engine, benchmark, started)


if __name__ == "__main__":
    main()
