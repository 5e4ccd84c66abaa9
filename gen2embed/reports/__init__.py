"""HTML pages without scripts from elsewhere: of an evaluation and of mined clusters, from files of runs.

It imports `training` and the folders below it.
"""

from typing import TYPE_CHECKING

from gen2embed.utils.lazy import lazy_exports

if TYPE_CHECKING:
    from gen2embed.reports.html import thumbnail as thumbnail
    from gen2embed.reports.html import write_page as write_page
else:
    __getattr__, __dir__, __all__ = lazy_exports(
        __name__,
        {
            "thumbnail": "html",
            "write_page": "html",
        },
    )
