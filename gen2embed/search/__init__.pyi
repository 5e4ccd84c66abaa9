from .approximate import Approximate as Approximate
from .exact import Exact as Exact
from .exact import Search as Search
from .exact import nearest as nearest
from .neighbours import Neighbours as Neighbours
from .neighbours import find_neighbours as find_neighbours
from .products import allow_tf32 as allow_tf32
