"""Fingerprints, nested plain values that decide a result: digests, differences, and folders that belong to one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from gen2embed.utils.errors import UserError
from gen2embed.utils.files import write_json
from gen2embed.utils.log import log

Fingerprint = Mapping[str, Any]

MANIFEST = "manifest.json"


def fingerprint_digest(fingerprint: Fingerprint) -> str:
    """Return a digest of 16 hexadecimal digits."""
    canonical = json.dumps(fingerprint, sort_keys=True, default=str)
    return hashlib.blake2b(canonical.encode(), digest_size=8).hexdigest()


def differences(earlier: Fingerprint, current: Fingerprint) -> list[str]:
    """Return one line for each setting that differs, with nested keys dotted."""
    old, new = dict(flat(earlier)), dict(flat(current))

    def value_of(values: Fingerprint, key: str) -> str:
        return repr(values[key]) if key in values else "nothing"

    return [
        f"{key} is {value_of(old, key)} there and {value_of(new, key)} here"
        for key in sorted(old | new)
        if key not in old or key not in new or old[key] != new[key]
    ]


def flat(mapping: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the keys and values of a nested mapping, with nested keys dotted."""
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def without(mapping: Mapping[str, Any], keys: Collection[str], prefix: str = "") -> dict[str, Any]:
    """Return a nested mapping without some dotted keys."""
    return {
        key: without(value, keys, f"{prefix}{key}.") if isinstance(value, Mapping) else value
        for key, value in mapping.items()
        if f"{prefix}{key}" not in keys
    }


def json_values(value: Any) -> Any:
    """Return a value as it reads back from JSON: tuples as lists, and what JSON has no type for as text."""
    return json.loads(json.dumps(value, default=str))


def _read(manifest: Path) -> Fingerprint:
    """Return the fingerprint of a folder."""
    try:
        return dict(json.loads(manifest.read_text()))
    except (ValueError, TypeError):
        raise UserError(f"{manifest} is not that of a store; name another folder") from None


def log_differences(folder: Path, fingerprint: Fingerprint, content: str) -> None:
    """Log, if `folder` does not exist yet, how the most similar folder beside it differs.

    Args:
        folder: The folder of the fingerprint.
        fingerprint: The fingerprint.
        content: What such folders hold, such as "embeddings".
    """
    if folder.exists():
        return
    manifests = folder.parent.glob(f"*/{MANIFEST}")
    beside = {path.parent: differences(_read(path), json_values(fingerprint)) for path in manifests}
    if beside:
        closest = min(beside, key=lambda path: (len(beside[path]), path))
        log.info("no %s are reused; %s differs: %s", content, closest, "; ".join(beside[closest]))


def claim_store(folder: Path, fingerprint: Fingerprint, content: str) -> None:
    """Make `folder` that of `fingerprint`.

    Args:
        folder: The folder, which need not exist.
        fingerprint: The fingerprint.
        content: What the folder holds, such as "embeddings".

    Raises:
        UserError: If the folder is that of another fingerprint, or holds something else.
    """
    manifest = folder / MANIFEST
    if not manifest.is_file():
        if foreign := sorted(path.name for path in folder.glob("[!.]*")):
            raise UserError(f"{folder} holds {foreign[0]} and no {content} of ours; name another folder")
        write_json(manifest, fingerprint, sort_keys=True)
    elif differing := differences(_read(manifest), json_values(fingerprint)):
        raise UserError(
            f"the {content} in {folder} were made with other settings, and are not reused: {'; '.join(differing)}; "
            "name another folder, or remove this one"
        )
