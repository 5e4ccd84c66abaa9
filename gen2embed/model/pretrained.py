"""Find the base, the adapter and the card at a path or a hub id; save an embedder, and upload it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import huggingface_hub as hub
import peft
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
    RevisionResolutionError,
)

from gen2embed.config.presets import load_preset
from gen2embed.model.adapter import save
from gen2embed.model.card import CARD, CardSettings, base_of, card_differences, check_weights, is_adapter, read_card
from gen2embed.model.pooling import LastToken, Pooling
from gen2embed.model.prompts import Convention, Prompt
from gen2embed.model.resolution import Resolution
from gen2embed.model.run_models import advice
from gen2embed.outputs.paths import check_folder, replace_folder
from gen2embed.utils.compat import is_known_absent
from gen2embed.utils.errors import UserError, first_line
from gen2embed.utils.files import is_remote
from gen2embed.utils.log import log

if TYPE_CHECKING:
    from gen2embed.model.embedder import Embedder


@dataclass(frozen=True)
class PretrainedSource:
    """Where an embedder is loaded from.

    Args:
        path: The base, a folder or a hub id.
        adapter: The local folder of the adapter; None if there is none.
        card: The card of the checkpoint (`card.py`); empty for one that was not saved by gen2embed.
        revision: The base's revision on the hub.
    """

    path: str | Path
    adapter: Path | None
    card: Mapping[str, Any]
    revision: str | None = None

    @property
    def name(self) -> str | Path:
        """The folder or hub id that holds the card."""
        return self.adapter or self.path

    def choose(
        self,
        prompt: str | Prompt | None = None,
        convention: Convention | None = None,
        resolution: str | Resolution | None = None,
        pooling: str | Pooling | None = None,
    ) -> CardSettings:
        """Return the chosen settings, else those of the checkpoint, else hierarchical, clamp and last.

        Another choice than the checkpoint's is taken, with a warning that says what differs.

        Raises:
            UserError: For an unknown name, and for a checkpoint's own pooling that cannot be imported.
        """
        chosen = _prompt(prompt, self.card)
        if convention is not None:
            chosen = replace(chosen, convention=convention)
        settings = CardSettings(chosen, _resolution(resolution, self.card), self._pooling(pooling))
        if differing := card_differences(self.card, settings):
            log.warning("not as the checkpoint %s was trained: %s", self.name, "; ".join(differing))
        return settings

    def _pooling(self, choice: str | Pooling | None) -> Pooling:
        if isinstance(choice, str):
            return load_preset("pooling", choice)
        if choice is not None:
            if isinstance(choice, type) or not is_dataclass(choice) or not callable(choice):
                raise UserError(f"a pooling is an instance of a dataclass with __call__; got {choice!r}")
            return choice
        if (call := self.card.get("pooling")) is None:
            return LastToken()
        # it imports Lightning, and few checkpoints need it
        from gen2embed.config.schema import make_saved  # noqa: PLC0415

        try:
            return make_saved(call, "pooling")
        except UserError as error:
            raise UserError(
                f"the checkpoint {self.name} was trained with a pooling of its own: {error}; put its module on "
                "PYTHONPATH, or choose a pooling"
            ) from error


def find_source(
    path: str | Path,
    adapter: str | Path | None = None,
    revision: str | None = None,
    adapter_revision: str | None = None,
) -> PretrainedSource:
    """Return the source at `path`; loads no weights, but compares those of a folder with their digests.

    Args:
        path: A folder or a hub id of a base, or of an adapter, which names its base and the base's revision.
        adapter: An adapter to load onto `path`.
        revision: The commit, branch or tag of `path` on the hub.
        adapter_revision: That of `adapter`.

    Raises:
        UserError: For an adapter that is none or does not name its base, and for weights that were changed.
    """
    if adapter is None:
        if is_remote(path):
            try:
                revision = str(hub.HfApi().resolve_revision(str(path), revision=revision).resolved)
            except (HfHubHTTPError, RevisionResolutionError) as error:
                first = first_line(error)
                log.warning("the hub could not be asked about %s, which is taken to be a base alone: %s", path, first)
                return PretrainedSource(path, None, {}, revision)
        if (config := fetch_file(path, "adapter_config.json", revision)) is None:
            card = fetch_file(path, CARD, revision)
            if Path(path).is_dir():
                check_weights(Path(path))
            return PretrainedSource(path, None, read_card(card.parent) if card else {}, revision)
        adapter, adapter_revision = path, revision
        base, revision = base_of(config.parent)
        if not base:
            raise UserError(
                f"the adapter {adapter} does not name its base; give the base as path, and this adapter as adapter"
            )
        path = base
    folder = find_adapter(adapter, adapter_revision)
    if folder is None:
        raise UserError(f"{adapter} is not an adapter: it has no adapter_config.json{advice(adapter)}")
    return PretrainedSource(path, folder, read_card(folder), revision)


def _prompt(choice: str | Prompt | None, card: Mapping[str, Any]) -> Prompt:
    if isinstance(choice, Prompt):
        return choice
    if choice is None and "prompt" in card:
        return Prompt(**card["prompt"])
    return load_preset("prompt", choice or "hierarchical")


def _resolution(choice: str | Resolution | None, card: Mapping[str, Any]) -> Resolution:
    if isinstance(choice, Resolution):
        return choice
    return Resolution(**card.get("resolution", {})) if choice is None else load_preset("resolution", choice)


def fetch_file(path: str | Path, name: str, revision: str | None) -> Path | None:
    """Return a small file of a folder or a hub repository; None if it is missing or, with a warning, out of reach."""
    file = Path(path) / name
    if not is_remote(path):
        return file if file.is_file() else None
    try:
        return Path(hub.hf_hub_download(str(path), name, revision=revision))
    except RemoteEntryNotFoundError:
        return None
    except OSError as error:
        if not is_known_absent(str(path), name, revision):
            first = first_line(error)
            log.warning(
                "the hub could not be asked whether %s has a %s; it is loaded as if it had none: %s", path, name, first
            )
        return None


def find_adapter(source: str | Path, revision: str | None = None) -> Path | None:
    """Return the folder of an adapter, downloaded for a hub id; None if `source` holds something else.

    Args:
        source: A folder or a hub id.
        revision: The commit, branch or tag on the hub.

    Raises:
        UserError: If there is nothing at `source`.
    """
    folder = Path(source)
    if not is_remote(source):
        if not folder.is_dir():
            state = "is a file" if folder.is_file() else "does not exist"
            raise UserError(f"the checkpoint folder {source} {state}{advice(folder)}")
        return folder if is_adapter(folder) else None
    try:
        hub.hf_hub_download(str(source), "adapter_config.json", revision=revision)
        return Path(hub.snapshot_download(str(source), revision=revision, allow_patterns=["adapter_*", CARD]))
    except (OSError, HfHubHTTPError, EntryNotFoundError) as error:
        if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
            return None  # the repository exists, and holds something else
        first = first_line(error)
        raise UserError(
            f"{source} is no folder here, and could not be loaded from the hub: {first}{advice(source)}"
        ) from error


def save_pretrained(embedder: Embedder, folder: Path) -> None:
    """Save to a new or an empty folder, completely or not at all.

    Raises:
        UserError: For a folder that holds files, which could be taken for a part of the model, and for one inside the
            model's own folder.
    """
    output = check_folder(folder, inputs=[Path(embedder.backbone.name)])
    replace_folder(output, lambda unfinished: save(embedder, unfinished), by=None)


def push_to_hub(
    embedder: Embedder,
    repo_id: str,
    private: bool | None = None,
    revision: str | None = None,
    token: str | None = None,
) -> str:
    """Upload what `save_pretrained` saves, and return the address of the commit; see `Embedder.push_to_hub`."""
    backbone = embedder.backbone
    if isinstance(backbone.full, peft.PeftModel) and Path(backbone.name).is_dir():
        log.warning(
            "the base %s is a folder of this machine, which others do not have: they load a base of their own, "
            "with adapter=%s",
            backbone.name,
            repo_id,
        )
    api = hub.HfApi(token=token)
    with tempfile.TemporaryDirectory(prefix="gen2embed-") as folder:
        save(embedder, Path(folder))
        try:
            api.create_repo(repo_id, private=private, exist_ok=True)
            if revision is not None:
                api.create_branch(repo_id, branch=revision, exist_ok=True)
            commit = api.upload_folder(
                repo_id=repo_id, folder_path=folder, revision=revision, commit_message="Upload an embedder"
            )
        except (OSError, ValueError) as error:  # of the connection, of the hub's answer, or for the name
            first = first_line(error)
            raise UserError(f"the model could not be uploaded to {repo_id}: {first}; see `hf auth login`") from error
    return commit.commit_url
