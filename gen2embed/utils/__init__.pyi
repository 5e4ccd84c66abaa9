from .errors import UserError as UserError
from .files import write_atomic as write_atomic
from .preemption import Preempted as Preempted
from .rank_group import RankGroup as RankGroup
from .workers import Prefetch as Prefetch
