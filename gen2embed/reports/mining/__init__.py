"""The report of mined clusters: figures, charts, and a gallery of clusters."""

from typing import TYPE_CHECKING

from gen2embed.utils.lazy import lazy_exports

if TYPE_CHECKING:
    from gen2embed.reports.mining.page import write_report as write_report
else:
    __getattr__, __dir__, __all__ = lazy_exports(__name__, {"write_report": "page"})
