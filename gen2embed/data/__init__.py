"""Read rows into items, training pairs and benchmarks: tables, MMEB, SugarCrepe, pictures, and rows to leave out.

It imports `utils`, `outputs`, `types` and `config`.
"""

from typing import TYPE_CHECKING

from gen2embed.utils.lazy import lazy_exports

if TYPE_CHECKING:
    from gen2embed.data.benchmark import Benchmark as Benchmark
    from gen2embed.data.mmeb import read_custom as read_custom
    from gen2embed.data.mmeb import read_mmeb as read_mmeb
    from gen2embed.data.pairs import Files as Files
    from gen2embed.data.pairs import Mmeb as Mmeb
    from gen2embed.data.pairs import PairSource as PairSource
    from gen2embed.data.positives import Positives as Positives
    from gen2embed.data.quarantine import valid_pairs as valid_pairs
    from gen2embed.data.sugarcrepe import read_sugarcrepe as read_sugarcrepe
    from gen2embed.data.sugarcrepe import read_sugarcrepe_pp as read_sugarcrepe_pp
else:
    __getattr__, __dir__, __all__ = lazy_exports(
        __name__,
        {
            "Benchmark": "benchmark",
            "Files": "pairs",
            "Mmeb": "pairs",
            "PairSource": "pairs",
            "Positives": "positives",
            "read_custom": "mmeb",
            "read_mmeb": "mmeb",
            "read_sugarcrepe": "sugarcrepe",
            "read_sugarcrepe_pp": "sugarcrepe",
            "valid_pairs": "quarantine",
        },
    )
