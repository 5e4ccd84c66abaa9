"""The report of evaluations: tables, charts, and an explorer of queries."""

from typing import TYPE_CHECKING

from gen2embed.utils.lazy import lazy_exports

if TYPE_CHECKING:
    from gen2embed.reports.evaluation.page import write_report as write_report
    from gen2embed.reports.evaluation.results import read_runs as read_runs
    from gen2embed.reports.evaluation.tables import make_table as make_table
else:
    __getattr__, __dir__, __all__ = lazy_exports(
        __name__,
        {
            "make_table": "tables",
            "read_runs": "results",
            "write_report": "page",
        },
    )
