"""What every folder may use: errors, files, logging, redaction, fingerprints, worker processes, groups of ranks.

It imports no other folder.
"""

from typing import TYPE_CHECKING

from gen2embed.utils.lazy import lazy_exports

if TYPE_CHECKING:
    from gen2embed.utils.errors import UserError as UserError
    from gen2embed.utils.files import write_atomic as write_atomic
    from gen2embed.utils.preemption import Preempted as Preempted
    from gen2embed.utils.rank_group import RankGroup as RankGroup
    from gen2embed.utils.workers import Prefetch as Prefetch
else:
    __getattr__, __dir__, __all__ = lazy_exports(
        __name__,
        {
            "Prefetch": "workers",
            "Preempted": "preemption",
            "RankGroup": "rank_group",
            "UserError": "errors",
            "write_atomic": "files",
        },
    )
