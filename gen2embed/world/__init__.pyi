from .data import World as World
from .data import read_world as read_world
from .scenes import Scene as Scene
from .scenes import sample_scene as sample_scene
