from .evaluate import Evaluation as Evaluation
from .significance import Difference as Difference
from .significance import holm as holm
from .significance import mcnemar as mcnemar
from .significance import paired_bootstrap as paired_bootstrap
