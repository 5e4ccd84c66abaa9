"""Compose the yaml files of `conf/` and the command line, and check the result before anything is loaded.

`schema` checks keys and values, `targets` what a `_target_` may name, `renamed` translates saved configurations of
earlier versions. It imports `utils`, `outputs` and `types`.
"""

from typing import TYPE_CHECKING

from gen2embed.utils.lazy import lazy_exports

if TYPE_CHECKING:
    from gen2embed.config.presets import compose_shipped as compose_shipped
    from gen2embed.config.presets import conf_dir as conf_dir
    from gen2embed.config.presets import load_preset as load_preset
    from gen2embed.config.renamed import translate as translate
    from gen2embed.config.schema import check as check
    from gen2embed.config.schema import make as make
    from gen2embed.config.schema import make_saved as make_saved
    from gen2embed.config.targets import find_target as find_target
else:
    __getattr__, __dir__, __all__ = lazy_exports(
        __name__,
        {
            "check": "schema",
            "compose_shipped": "presets",
            "conf_dir": "presets",
            "find_target": "targets",
            "load_preset": "presets",
            "make": "schema",
            "make_saved": "schema",
            "translate": "renamed",
        },
    )
