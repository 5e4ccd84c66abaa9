"""What train.py, mine.py and eval.py share: the entry point, parts from the configuration, console, results, sweeps.

It imports `reports`, `training` and the folders below them.
"""

from typing import TYPE_CHECKING

from gen2embed.utils.lazy import lazy_exports

if TYPE_CHECKING:
    from gen2embed.runs.build import make_embedder as make_embedder
    from gen2embed.runs.build import make_trainer as make_trainer
    from gen2embed.runs.entry import entry_point as entry_point
    from gen2embed.runs.entry import start as start
    from gen2embed.runs.results import manifest as manifest
    from gen2embed.runs.results import write_results as write_results
    from gen2embed.runs.score import evaluate_and_report as evaluate_and_report
else:
    __getattr__, __dir__, __all__ = lazy_exports(
        __name__,
        {
            "entry_point": "entry",
            "evaluate_and_report": "score",
            "make_embedder": "build",
            "make_trainer": "build",
            "manifest": "results",
            "start": "entry",
            "write_results": "results",
        },
    )
