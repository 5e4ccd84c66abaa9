"""Decide what a `_target_` may name: a call runs code, and a stranger may have written the file.

Allowed are:

- of this package, the targets of the shipped yaml files;
- of a user's own modules `gen2embed_*`, the classes and functions that they define;
- of a few libraries, classes of the kinds that a configuration needs (`KINDS`).

What a module merely imports is not allowed, such as `gen2embed.utils.files.os.system`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from hydra.utils import get_object

from gen2embed.config.presets import conf_dir
from gen2embed.config.renamed import TARGETS
from gen2embed.config.values import join_key
from gen2embed.utils.errors import UserError

OURS, USERS = "gen2embed.", "gen2embed_"
KINDS = {  # the classes of which a target may be, by the library
    "lightning.": (
        "lightning.Trainer",
        "lightning.Callback",
        "lightning.pytorch.loggers.Logger",
        "lightning.pytorch.profilers.Profiler",
        "lightning.pytorch.strategies.Strategy",
    ),
    "torch.optim.": ("torch.optim.Optimizer", "torch.optim.lr_scheduler.LRScheduler"),
}
SCHEDULES = "transformers.optimization"  # its functions get_...
PREFIXES = (OURS, USERS, *KINDS, f"{SCHEDULES}.")
ALLOWED = (
    f"a target starts with {', '.join(PREFIXES)}, and is what a file of conf/ names, a class or function that your own "
    "module gen2embed_... defines, a trainer, callback, logger, profiler or strategy, an optimiser or a schedule"
)


@cache
def shipped_targets(group: str = "") -> frozenset[str]:
    """Return the targets in this package that the shipped files of a group, or of all groups, name."""
    files = (conf_dir() / group).rglob("*.yaml")
    names = {name for file in files for name in re.findall(r"_target_:\s*([\w.]+)", file.read_text())}
    return frozenset(name for name in names if name.startswith(OURS))


def find_target(name: Any, path: str) -> Any:
    """Return the class or function that a target names; raises `UserError` for one that is not allowed or missing.

    Args:
        name: The value of `_target_`.
        path: The dotted key of the call, for messages.
    """
    if isinstance(name, str) and name in TARGETS:
        raise UserError(f"{path}._target_={name} is an earlier version's name; write {TARGETS[name]}")
    refused = UserError(f"{path}._target_={name!r} is not allowed; {ALLOWED}")
    plausible = isinstance(name, str) and re.fullmatch(r"[\w.]+", name) and name.startswith(PREFIXES)
    if not plausible or (name.startswith(OURS) and name not in shipped_targets()):
        raise refused
    try:
        target = get_object(name)
    except Exception as error:
        raise UserError(f"{path}._target_={name!r} names nothing that can be imported") from error
    if name not in shipped_targets() and not _is_of_its_module(name, target):
        raise refused
    return target


def _is_of_its_module(name: str, target: Any) -> bool:
    """Return whether a target outside of our package may be named, and is defined in the module that it names."""
    module, _, own = name.rpartition(".")
    if name.startswith(USERS) or module == SCHEDULES:
        defined = inspect.isclass(target) or (inspect.isfunction(target) and target.__qualname__ == own)
        return defined and target.__module__ == module and (name.startswith(USERS) or own.startswith("get_"))
    kinds = next((names for prefix, names in KINDS.items() if name.startswith(prefix)), ())
    return inspect.isclass(target) and issubclass(target, tuple(map(get_object, kinds)))


def calls_in(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield the dotted key and the `_target_` of every call below a node, also in lists and at unknown keys."""
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield path, node["_target_"]
        for key, value in node.items():
            yield from calls_in(value, join_key(path, key))
    elif isinstance(node, list | tuple):
        for index, value in enumerate(node):
            yield from calls_in(value, f"{path}[{index}]")


def check_calls(node: Any, path: str) -> None:
    """Raise `UserError` at the first target below a node that is not allowed."""
    for where, name in calls_in(node, path):
        find_target(name, where)


def check_saved(call: Any, group: str) -> None:
    """Raise `UserError` unless a call in the files of a run is of a shipped group or a user's own module.

    A stranger may have written the files. So neither nested calls nor references to other values, such as
    `${oc.env:NAME}`, are followed; runs write neither.
    """
    name = call.get("_target_") if isinstance(call, Mapping) else call
    known = isinstance(name, str) and (name in shipped_targets(group) or name.startswith(USERS))
    if not known or not isinstance(call, Mapping):
        choices = ", ".join(sorted(shipped_targets(group)))
        raise UserError(f"{group}._target_={name!r} is not allowed; choose from {choices}, or your own {USERS}...")
    arguments = {key: value for key, value in call.items() if key != "_target_"}
    if nested := next(calls_in(arguments, group), None):
        raise UserError(f"{nested[0]}._target_={nested[1]!r} is not allowed: the {group} of a run holds one call")
    if special := sorted(key for key in arguments if re.fullmatch(r"_\w+_", str(key))):
        raise UserError(f"{group}.{special[0]} is not allowed in the files of a run")
    if "${" in repr(arguments):
        raise UserError(f"{group} refers to other values by ${{...}}; the files of a run may hold plain values only")
