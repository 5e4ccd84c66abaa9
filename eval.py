"""Evaluate a multimodal LLM as an embedder; `python eval.py --help` shows the options."""

import time
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from gen2embed import images, report
from gen2embed.config import entry_point, make_trainer, plain
from gen2embed.data.mmeb import pictures
from gen2embed.encoder.backbone import check_path
from gen2embed.evaluate import evaluate


@entry_point("eval")
def main(cfg: DictConfig) -> None:
    started = time.perf_counter()
    folder = Path(cfg.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(cfg, folder / "config.yaml", resolve=True)

    trainer = make_trainer(cfg)
    check_path(cfg.model.path)
    benchmark = instantiate(cfg.benchmark, _convert_="all")
    images.check(pictures(benchmark), [benchmark.image_dir])
    embedder = instantiate(cfg.model, _partial_=True)(
        prompt=instantiate(cfg.prompt, _convert_="all"),
        resolution=instantiate(cfg.resolution),
        device=str(trainer.strategy.root_device),
    )
    engine = instantiate(cfg.engine)
    report.print_table(report.summary_table(embedder, benchmark, engine, folder))

    evaluation = evaluate(embedder, engine, benchmark, cfg.bootstrap, cfg.seed)
    timing = report.timing(evaluation.encoded, time.perf_counter() - started)
    run = report.manifest(plain(cfg), embedder.fingerprint, timing)
    report.write_results(folder, evaluation.scores, evaluation.predictions, run)
    report.print_table(report.score_table(evaluation.scores))
    for logger in trainer.loggers:
        logger.log_hyperparams(run["config"])
        logger.log_metrics(report.flat(evaluation.scores))
        logger.finalize("success")


if __name__ == "__main__":
    main()
