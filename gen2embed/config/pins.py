"""Pin a run to commits of the hub: its configuration names the commit of every repository that it reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

import huggingface_hub as hub
from huggingface_hub.errors import HfHubHTTPError, RevisionNotFoundError, RevisionResolutionError

from gen2embed.config.values import join_key
from gen2embed.utils.errors import UserError, first_line
from gen2embed.utils.files import is_remote
from gen2embed.utils.log import log

Kind = Literal["model", "dataset"]
# The keys that may name a repository, and the keys of their revisions.
REVISIONS = {"path": "revision", "annotations": "revision", "checkpoint": "checkpoint_revision"}


class _Repository(NamedTuple):
    key: str  # dotted key of the revision in the configuration
    name: str
    revision: str | None
    kind: Kind


def pins(config: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, str]:
    """Return the commits that a run reads, by the keys of the revisions in its configuration.

    A revision that the configuration does not name is that of the run's earlier start, so that a resumed run reads the
    same commits.

    Args:
        config: The configuration of this start.
        before: The configuration of an earlier start of the run; {} if there was none.

    Raises:
        UserError: For a revision that a repository does not have.
    """
    earlier = {(repository.key, repository.name): repository.revision for repository in _repositories(before)}
    commits = {}
    for key, name, chosen, kind in _repositories(config):
        revision = chosen or earlier.get((key, name))
        if commit := _commit(name, kind, revision):
            commits[key] = commit
        if revision and not chosen:
            log.info("%s is %s, as when this run began; to change it, set %s=main", key, revision, key)
    return commits


def _repositories(node: Any, path: str = "") -> Iterator[_Repository]:
    """Yield the hub repositories that a configuration names."""
    if not isinstance(node, Mapping):
        return
    kind: Kind = "dataset" if path and path != "model" else "model"
    for key, revision in REVISIONS.items():
        name: Any = node.get(key)
        if revision in node and is_remote(name):
            yield _Repository(join_key(path, revision), name, node[revision], kind)
    for key, value in node.items():
        yield from _repositories(value, join_key(path, key))


def _commit(repository: str, kind: Kind, revision: str | None) -> str | None:
    """Return the commit of a revision, by the hub or, offline, by what was downloaded; None is the main branch.

    If neither knows the repository, warn and return None; whatever reads the repository then raises its own error.
    """
    try:
        return str(hub.HfApi().resolve_revision(repository, repo_type=kind, revision=revision).resolved)
    except RevisionNotFoundError:
        raise UserError(f"the {kind} {repository} has no revision {revision}; see its commits on the hub") from None
    except (HfHubHTTPError, RevisionResolutionError) as error:
        log.warning("the commit of the %s %s is unknown: %s", kind, repository, first_line(error))
        return None
