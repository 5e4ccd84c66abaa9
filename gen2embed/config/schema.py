"""Check the whole configuration of an entry point, before anything is loaded.

A yaml file is a constructor call, so the constructor's signature is the schema: a key that it does not take, or a value
that its annotation refuses, is an error that lists what is valid. Keys outside of constructor calls must stand in the
shipped defaults. Both hold for keys added with `+` as well.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import typing
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any

from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import DictConfig
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from pydantic import ConfigDict, Field, PydanticSchemaGenerationError, TypeAdapter, ValidationError

from gen2embed.config.messages import SPECIAL_KEYS, default_config, explain, unknown_key
from gen2embed.config.presets import compose_shipped
from gen2embed.config.quoting import as_texts
from gen2embed.config.renamed import translate
from gen2embed.config.targets import check_calls, check_saved, find_target
from gen2embed.config.values import from_home, join_key, plain, register_resolvers
from gen2embed.utils.errors import UserError, first_line
from gen2embed.utils.redaction import expanded

FREE = {"batch.weights"}  # mappings whose keys are the user's
TYPES = {  # of keys outside of constructor calls, where the type of the default does not say it all
    "bootstrap": Annotated[int, Field(ge=1)],
    "checkpoint": str | None,
    "checkpoint_revision": str | None,
    "seed": Annotated[int, Field(ge=0, lt=2**32)],
}


def check(cfg: DictConfig, config_name: str, overrides: Iterable[str], folders: Sequence[str] = ()) -> None:
    """Raise `UserError` at the first key or value of a configuration that nothing reads.

    Args:
        cfg: The composed configuration.
        config_name: Its name.
        overrides: The settings of the command line.
        folders: Where the files of groups may lie, beside the shipped ones.
    """
    defaults = default_config(config_name, overrides, folders)
    try:
        resolved = plain(cfg)
    except MissingMandatoryValue as error:
        raise UserError(f"{error.full_key} has no value; set it as {error.full_key}=...") from error
    except OmegaConfBaseException as error:
        raise UserError(f"the configuration cannot be resolved: {first_line(error)}") from error
    check_calls(resolved, "")
    _check_keys(resolved, defaults, "")


def make_saved(call: Any, group: str) -> Any:
    """Return the object of a group's call in the files of a run; raises `UserError` for a call that no run writes.

    Args:
        call: `_target_` and arguments, as in the file.
        group: The group of the call, such as `prompt`.
    """
    call = translate(call, group)
    check_saved(call, group)
    check_call(call, group)
    return instantiate(expanded(call), _convert_="all")


def make(config_name: str, groups: Iterable[str], overrides: Sequence[str]) -> dict[str, Any]:
    """Return the objects of some groups of a shipped configuration, outside of a Hydra program.

    Args:
        config_name: The name of the configuration.
        groups: The groups to instantiate.
        overrides: As on a command line.

    Raises:
        UserError: For what an entry point would refuse.
    """
    register_resolvers()
    try:
        cfg = from_home(compose_shipped(config_name, overrides))
        cfg.output_dir = "outputs"  # the default names the time of Hydra's program
        check(cfg, config_name, overrides)
        return {group: instantiate(cfg[group], _convert_="all") for group in groups}
    except (HydraException, OmegaConfBaseException) as error:
        if (message := explain(error, config_name, overrides)) is None:
            raise
        raise UserError(message) from error


def _check_keys(node: Any, default: Any, path: str) -> None:
    if isinstance(node, dict) and "_target_" in node:
        check_call(node, path)
    elif isinstance(node, dict) and path not in FREE:
        known = default if isinstance(default, dict) else {}
        for key, value in node.items():
            if key not in known:
                raise UserError(unknown_key(join_key(path, key), known))
            sibling = re.fullmatch(r"\$\{\.(\w+)\}", str(known[key]))
            _check_keys(value, known[sibling[1] if sibling else key], join_key(path, key))
    elif path in TYPES:
        _check_value(node, TYPES[path], path)
    elif default is not None and node is not None:
        _check_value(node, type(default), path)


def check_call(node: Mapping[str, Any], path: str) -> Any:
    """Check one constructor call, and return the class or function that it names."""
    target = find_target(node["_target_"], path)
    check_arguments(target, node, path)
    return target


def check_arguments(target: Any, node: Mapping[str, Any], path: str) -> None:
    """Raise `UserError` for a setting at `path` that a class or function does not take, or a value that it refuses."""
    parameters = inspect.signature(target).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    hints = _hints(target)
    for key, value in node.items():
        if key in SPECIAL_KEYS:
            continue
        if key not in parameters and not takes_any:
            raise UserError(unknown_key(join_key(path, key), parameters))
        if isinstance(value, dict) and "_target_" in value:
            argument, hint = check_call(value, join_key(path, key)), hints.get(key)
            if inspect.isclass(argument) and inspect.isclass(hint) and not issubclass(argument, hint):
                raise UserError(f"{join_key(path, key)} must be a {hint.__name__}; got a {argument.__name__}")
        elif key in hints:
            _check_value(value, hints[key], join_key(path, key))


def _hints(target: Any) -> dict[str, Any]:
    """Return the annotations of a target's parameters; none where they cannot be resolved outside of its library."""
    places = [target.__init__ if inspect.isclass(target) else target]
    if dataclasses.is_dataclass(target):  # whose `__init__` does not know the names in annotations of inherited fields
        places.append(target)
    for place in places:
        try:
            return typing.get_type_hints(place)
        except (NameError, TypeError, AttributeError):
            continue
    return {}


def _check_value(value: Any, hint: Any, path: str) -> None:
    try:
        adapter = TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))
    except PydanticSchemaGenerationError:
        return
    except Exception:  # a dataclass or model carries its own config
        adapter = TypeAdapter(hint)
    try:
        adapter.validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join([path, *(str(part) for part in first["loc"] if isinstance(part, str) and part in repr(value))])
        remedy = as_texts(value, path, partial(_is_valid, adapter))
        raise UserError(f"{where}={first['input']!r} is not valid: {first['msg']}{remedy}") from None


def _is_valid(adapter: TypeAdapter, value: Any) -> bool:
    try:
        adapter.validate_python(value)
    except ValidationError:
        return False
    return True
