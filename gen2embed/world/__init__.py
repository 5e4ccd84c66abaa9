"""The embedded world: scenes of coloured shapes that are drawn from a seed, and tasks on them, for demo and tests.

It imports `data` and the folders below it.
"""

from typing import TYPE_CHECKING

from gen2embed.utils.lazy import lazy_exports

if TYPE_CHECKING:
    from gen2embed.world.data import World as World
    from gen2embed.world.data import read_world as read_world
    from gen2embed.world.scenes import Scene as Scene
    from gen2embed.world.scenes import sample_scene as sample_scene
else:
    __getattr__, __dir__, __all__ = lazy_exports(
        __name__,
        {
            "Scene": "scenes",
            "World": "data",
            "read_world": "data",
            "sample_scene": "scenes",
        },
    )
