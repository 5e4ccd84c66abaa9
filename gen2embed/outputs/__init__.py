"""Folders and files that a run or a command writes: it claims them, replaces only its own, and redacts secrets.

It imports `utils`.
"""

from typing import TYPE_CHECKING

from gen2embed.utils.lazy import lazy_exports

if TYPE_CHECKING:
    from gen2embed.outputs.claims import claim as claim
    from gen2embed.outputs.claims import release as release
    from gen2embed.outputs.paths import check_file as check_file
    from gen2embed.outputs.paths import check_folder as check_folder
    from gen2embed.outputs.paths import replace_folder as replace_folder
    from gen2embed.outputs.paths import write_file as write_file
    from gen2embed.outputs.redacted import redact_yaml as redact_yaml
    from gen2embed.outputs.redacted import write_json as write_json
else:
    __getattr__, __dir__, __all__ = lazy_exports(
        __name__,
        {
            "check_file": "paths",
            "check_folder": "paths",
            "claim": "claims",
            "redact_yaml": "redacted",
            "release": "claims",
            "replace_folder": "paths",
            "write_file": "paths",
            "write_json": "redacted",
        },
    )
