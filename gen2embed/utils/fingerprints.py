"""Fingerprints, nested plain values that decide a result: their digests, differences, and the folders under them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from gen2embed.utils.errors import UserError
from gen2embed.utils.files import write_atomic
from gen2embed.utils.log import log

Fingerprint = Mapping[str, Any]


MANIFEST = "manifest.json"


def digest(fingerprint: Fingerprint) -> str:
    canonical = json.dumps(fingerprint, sort_keys=True, default=str)
    return hashlib.blake2b(canonical.encode(), digest_size=8).hexdigest()


def differences(there: Fingerprint, here: Fingerprint) -> list[str]:
    """What differs, one line a setting, nested keys dotted."""
    a, b = dict(flat(there)), dict(flat(here))
    said = {True: repr, False: lambda _: "nothing"}
    return [
        f"{key} is {said[key in a](a.get(key))} there and {said[key in b](b.get(key))} here"
        for key in sorted(a | b)
        if key not in a or key not in b or a[key] != b[key]
    ]


def flat(mapping: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Values by their keys, nested ones dotted."""
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def without(mapping: Mapping[str, Any], keys: Collection[str], prefix: str = "") -> dict[str, Any]:
    """A mapping without what lies at some keys, nested ones dotted."""
    return {
        key: without(value, keys, f"{prefix}{key}.") if isinstance(value, Mapping) else value
        for key, value in mapping.items()
        if f"{prefix}{key}" not in keys
    }


def json_values(value: Any) -> Any:
    """Return a value as it reads back from JSON: tuples as lists, and what JSON has no type for as text."""
    return json.loads(json.dumps(value, default=str))


def _read(manifest: Path) -> Fingerprint:
    try:
        return dict(json.loads(manifest.read_text()))
    except (ValueError, TypeError):
        raise UserError(f"{manifest} is not that of a store; name another folder") from None


def say_what_differs(folder: Path, fingerprint: Fingerprint, what: str) -> None:
    """Before `folder` is made: why the most alike beside it is not reused. what: is kept there."""
    if folder.exists():
        return
    manifests = folder.parent.glob(f"*/{MANIFEST}")
    others = {path.parent: differences(_read(path), json_values(fingerprint)) for path in manifests}
    if others:
        closest = min(others, key=lambda other: (len(others[other]), other))
        log.info("no %s are reused; %s differs: %s", what, closest, "; ".join(others[closest]))


def claim(folder: Path, fingerprint: Fingerprint, what: str) -> None:
    """Make `folder` that of `fingerprint`; raises `UserError` if it is another's. what: is kept there."""
    manifest = folder / MANIFEST
    if not manifest.is_file():
        if foreign := sorted(path.name for path in folder.glob("[!.]*")):
            raise UserError(f"{folder} holds {foreign[0]} and no {what} of ours; name another folder")
        spelled = json.dumps(fingerprint, indent=2, sort_keys=True, default=str).encode()
        write_atomic(manifest, lambda file: file.write(spelled))
    elif differing := differences(_read(manifest), json_values(fingerprint)):
        raise UserError(
            f"the {what} in {folder} were made otherwise and are not reused: {'; '.join(differing)}; name another "
            "folder, or remove this one"
        )
