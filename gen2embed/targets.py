"""What a `_target_` may name, wherever it stands in a configuration: a call is code, and a file may be a stranger's.

Of our package, what a shipped yaml file names, and nothing that can merely be reached through it, such as
`gen2embed.files.os.system`. Of a few libraries, the kinds of things that a configuration is for (`KINDS`).
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from hydra.utils import get_object
from lightning import Callback, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.profilers import Profiler
from lightning.pytorch.strategies import Strategy
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from gen2embed.presets import conf_dir
from gen2embed.types import UserError

OURS = "gen2embed."
KINDS: dict[str, tuple[type, ...]] = {
    "lightning.": (Trainer, Callback, Logger, Profiler, Strategy),
    "torch.optim.": (Optimizer, LRScheduler),
}
SCHEDULES = "transformers.optimization"  # its functions get_...
ALLOWED = (
    "a target is what a file of conf/ names of gen2embed, a trainer, callback, logger, profiler or strategy of "
    f"lightning, an optimiser or schedule of torch.optim, or a schedule of {SCHEDULES}"
)


@cache
def shipped_targets(group: str = "") -> frozenset[str]:
    """The targets of our package that the shipped files of a group, or of all groups, name."""
    files = (conf_dir() / group).rglob("*.yaml")
    names = {name for file in files for name in re.findall(r"_target_:\s*([\w.]+)", file.read_text())}
    return frozenset(name for name in names if name.startswith(OURS))


def find_target(name: Any, path: str) -> Any:
    """The class or function that a target names; `UserError` for one that is not allowed, or is not there."""
    refused = UserError(f"{path}._target_={name!r} is not allowed; {ALLOWED}")
    prefixes = (*KINDS, f"{SCHEDULES}.get_")
    plausible = isinstance(name, str) and re.fullmatch(r"[\w.]+", name) and name.startswith((OURS, *prefixes))
    if not plausible or (name.startswith(OURS) and name not in shipped_targets()):
        raise refused
    try:
        target = get_object(name)
    except Exception as error:
        raise UserError(f"{path}._target_={name!r} names nothing that can be imported") from error
    kinds = next((kinds for prefix, kinds in KINDS.items() if name.startswith(prefix)), ())
    made_there = name in shipped_targets() or getattr(target, "__module__", None) == SCHEDULES
    if not made_there and not (inspect.isclass(target) and issubclass(target, kinds)):
        raise refused
    return target


def calls_in(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Every call below a node, with its path, in lists and beside keys that no signature knows as well."""
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield path, node["_target_"]
        for key, value in node.items():
            yield from calls_in(value, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list | tuple):
        for index, value in enumerate(node):
            yield from calls_in(value, f"{path}[{index}]")


def check_calls(node: Any, path: str) -> None:
    """Raise `UserError` at the first target below a node that is not allowed."""
    for where, name in calls_in(node, path):
        find_target(name, where)


def check_saved(call: Any, group: str) -> None:
    """Raise `UserError` unless a call that a run's files hold is one of a shipped group's, and makes nothing else.

    Whoever wrote the files may be anybody, so neither calls within it nor references to what is here, such as
    `${oc.env:NAME}`, are followed; runs leave neither.
    """
    name = call.get("_target_") if isinstance(call, Mapping) else call
    if not isinstance(name, str) or name not in shipped_targets(group) or not isinstance(call, Mapping):
        raise UserError(
            f"{group}._target_={name!r} is not allowed; choose from {', '.join(sorted(shipped_targets(group)))}"
        )
    arguments = {key: value for key, value in call.items() if key != "_target_"}
    if found := next(calls_in(arguments, group), None):
        raise UserError(f"{found[0]}._target_={found[1]!r} is not allowed: the {group} of a run makes nothing else")
    if found_special := sorted(key for key in arguments if re.fullmatch(r"_\w+_", str(key))):
        raise UserError(f"{group}.{found_special[0]} is not allowed in the files of a run")
    if "${" in repr(arguments):
        raise UserError(f"{group} refers to other values by ${{...}}, and the files of a run hold values alone")
