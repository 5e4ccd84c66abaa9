"""What train.py, mine.py and eval.py share: the entry point, parts from the configuration, console, results, sweeps.

It imports `reports`, `training` and the folders below them.
"""

from typing import TYPE_CHECKING

from gen2embed.utils.lazy import lazy_exports

if TYPE_CHECKING:
    from gen2embed.runs.build import check_compression as check_compression
    from gen2embed.runs.build import check_sources as check_sources
    from gen2embed.runs.build import check_training as check_training
    from gen2embed.runs.build import make_benchmarks as make_benchmarks
    from gen2embed.runs.build import make_embedder as make_embedder
    from gen2embed.runs.build import make_recipe as make_recipe
    from gen2embed.runs.build import make_search as make_search
    from gen2embed.runs.build import make_trainer as make_trainer
    from gen2embed.runs.build import make_validation as make_validation
    from gen2embed.runs.build import read_pairs as read_pairs
    from gen2embed.runs.console import cluster_table as cluster_table
    from gen2embed.runs.console import print_table as print_table
    from gen2embed.runs.console import summary_table as summary_table
    from gen2embed.runs.console import training_table as training_table
    from gen2embed.runs.entry import entry_point as entry_point
    from gen2embed.runs.entry import start as start
    from gen2embed.runs.entry import write_config as write_config
    from gen2embed.runs.results import log_values as log_values
    from gen2embed.runs.results import manifest as manifest
    from gen2embed.runs.results import timing as timing
    from gen2embed.runs.results import write_results as write_results
    from gen2embed.runs.score import evaluate_and_report as evaluate_and_report
else:
    __getattr__, __dir__, __all__ = lazy_exports(
        __name__,
        {
            "check_compression": "build",
            "check_sources": "build",
            "check_training": "build",
            "cluster_table": "console",
            "entry_point": "entry",
            "evaluate_and_report": "score",
            "log_values": "results",
            "make_benchmarks": "build",
            "make_embedder": "build",
            "make_recipe": "build",
            "make_search": "build",
            "make_trainer": "build",
            "make_validation": "build",
            "manifest": "results",
            "print_table": "console",
            "read_pairs": "build",
            "start": "entry",
            "summary_table": "console",
            "timing": "results",
            "training_table": "console",
            "write_config": "entry",
            "write_results": "results",
        },
    )
