from .mining.saha import mine_clusters as mine_clusters
from .model.embedder import Embedder as Embedder
from .model.resolution import resize as resize
from .types import Item as Item
from .utils.errors import UserError as UserError

__version__: str
