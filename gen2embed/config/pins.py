"""A run is pinned to commits of the hub: its configuration says which one of every repository it takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

import huggingface_hub as hub
from huggingface_hub.errors import HfHubHTTPError, RevisionNotFoundError, RevisionResolutionError

from gen2embed.utils.errors import UserError, first_line
from gen2embed.utils.files import is_remote
from gen2embed.utils.log import log

Kind = Literal["model", "dataset"]
NAMES = {"path": "revision", "annotations": "revision", "checkpoint": "checkpoint_revision"}  # a key and its revision's


class _Repository(NamedTuple):
    key: str  # of its revision in the configuration
    name: str
    revision: str | None
    kind: Kind


def pins(config: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, str]:
    """Which commits a run takes, by the keys of the revisions in its configuration.

    before: the configuration that an earlier start of the run left; {} for none. Where this one names no revision, the
    commit is the earlier start's, so that a run goes on with what it began with.
    Raises `UserError` for a revision that a repository does not have.
    """
    already = {(its.key, its.name): its.revision for its in _repositories(before)}
    found = {}
    for its in _repositories(config):
        told = its.revision or already.get((its.key, its.name))
        if commit := _commit(its.name, its.kind, told):
            found[its.key] = commit
        if told and not its.revision:
            log.info("%s is %s, as when this run began; set it for another, such as main", its.key, told)
    return found


def _repositories(node: Any, path: str = "") -> Iterator[_Repository]:
    """The hub repositories that a configuration names."""
    if not isinstance(node, Mapping):
        return
    kind: Kind = "dataset" if path and path != "model" else "model"
    for name, revision in NAMES.items():
        its: Any = node.get(name)
        if revision in node and is_remote(its):
            yield _Repository(f"{path}.{revision}".lstrip("."), its, node[revision], kind)
    for key, value in node.items():
        yield from _repositories(value, f"{path}.{key}".lstrip("."))


def _commit(repository: str, kind: Kind, revision: str | None) -> str | None:
    """The commit of a revision, None being the main branch: the hub's, or without it the one that was downloaded.

    None, with a warning, if neither tells; what reads the repository says what is wrong with it.
    """
    try:
        return str(hub.HfApi().resolve_revision(repository, repo_type=kind, revision=revision).resolved)
    except RevisionNotFoundError:
        raise UserError(f"the {kind} {repository} has no revision {revision}; see its commits on the hub") from None
    except (HfHubHTTPError, RevisionResolutionError) as error:
        log.warning("which commit of the %s %s is taken is not known: %s", kind, repository, first_line(error))
        return None
