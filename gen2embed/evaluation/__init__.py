"""Score an embedder on benchmarks: metrics, intervals, and tests of differences.

It imports `mining`, `model`, `encoding`, `search`, `data` and the folders below them.
"""

from typing import TYPE_CHECKING

from gen2embed.utils.lazy import lazy_exports

if TYPE_CHECKING:
    from gen2embed.evaluation.evaluate import Evaluation as Evaluation
    from gen2embed.evaluation.significance import Difference as Difference
    from gen2embed.evaluation.significance import holm as holm
    from gen2embed.evaluation.significance import mcnemar as mcnemar
    from gen2embed.evaluation.significance import paired_bootstrap as paired_bootstrap
else:
    __getattr__, __dir__, __all__ = lazy_exports(
        __name__,
        {
            "Difference": "significance",
            "Evaluation": "evaluate",
            "holm": "significance",
            "mcnemar": "significance",
            "paired_bootstrap": "significance",
        },
    )
