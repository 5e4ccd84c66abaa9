"""Bad training rows: the first one ends the run, or all are left out and listed before training begins."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gen2embed.data.pairs import PairSource
from gen2embed.data.pictures import check_pictures, find_faults, read_facts
from gen2embed.types import Pair
from gen2embed.utils.errors import UserError
from gen2embed.utils.files import write_atomic
from gen2embed.utils.log import log
from gen2embed.utils.rank_group import wait_for

FILE = "quarantine.jsonl"


def valid_pairs(source: PairSource, folder: Path, *, leader: bool = True, seconds: float = 0) -> list[Pair]:
    """Return the pairs of a source after every row was checked. `source.on_error` chooses how:

        raise   all values and the headers of all pictures are read; the first fault raises
        skip    all pictures are decoded; bad rows are left out and listed in `folder/quarantine.jsonl`

    Batches are planned on the remaining rows.

    Args:
        source: The source.
        folder: The folder of the list.
        leader: Whether this process checks the pictures; the other processes of a run wait for its list.
        seconds: How long they wait.

    Raises:
        UserError: A row is bad, more than `source.max_skipped_share` of the rows are, or no list comes in time.
    """
    if not 0 <= source.max_skipped_share < 1:
        raise UserError(f"data.max_skipped_share is in [0, 1); got {source.max_skipped_share:g}")
    if source.on_error == "raise":
        pairs = source.pairs()
        if leader:
            check_pictures((picture for pair in pairs for picture in pair.pictures), source.roots)
        return pairs
    refused: dict[str, dict[int, str]] = {}
    pairs = source.read(lambda subset: refused.setdefault(subset, {}))
    rows = [_line(subset, row, why) for subset, bad in refused.items() for row, why in bad.items()]
    file, read = folder / FILE, _digest(pairs, rows)
    if leader and _listed(file, read) is None:
        rows += _unusable(pairs, source.roots)
        head = {"rows": len(pairs) + sum(map(len, refused.values())), "skipped": len(rows), "read": read}
        lines = [json.dumps(line) + "\n" for line in (head, *rows)]
        write_atomic(file, lambda opened: opened.write("".join(lines).encode()))
    if wait_for([file], seconds, lambda path: _listed(path, read) is not None):
        raise UserError(
            f"rank 0 did not write {file} for these rows within {seconds:g} seconds; raise "
            "trainer.strategy.timeout_seconds, and look whether all ranks read the same files"
        )
    skipped = _listed(file, read) or []
    total = len(pairs) + sum(map(len, refused.values()))
    _check_share(skipped, total, source.max_skipped_share, file)
    if leader:
        log.warning("%d of %d rows are skipped; %s lists them", len(skipped), total, file)
    left_out = {(line["subset"], line["row"]) for line in skipped}
    return [pair for pair in pairs if (pair.subset, pair.row) not in left_out]


def _line(subset: str, row: int, why: str, file: Path | None = None) -> dict[str, Any]:
    return {"subset": subset, "row": row, "file": file and str(file), "why": why}


def _unusable(pairs: Sequence[Pair], roots: Sequence[Path]) -> list[dict[str, Any]]:
    """Return a line for each row with pictures that cannot be used, also in its explicit negatives."""
    files = [[picture.source for picture in pair.pictures if isinstance(picture.source, Path)] for pair in pairs]
    fault_of = find_faults((path for paths in files for path in paths), roots, decode=True)
    lines = []
    for pair, paths in zip(pairs, files, strict=True):
        if bad := next((path for path in paths if path in fault_of), None):
            lines.append(_line(pair.subset, pair.row, f"the picture is {fault_of[bad]}", bad))
    return lines


def _check_share(skipped: Sequence[dict[str, Any]], total: int, share: float, file: Path) -> None:
    if len(skipped) > share * total:
        first = "; ".join(f"{line['subset']} row {line['row']}: {line['why']}" for line in skipped[:3])
        raise UserError(
            f"{len(skipped)} of {total} rows are bad, more than data.max_skipped_share={share:g}: {first}; {file} "
            "lists them all; mend them, or raise the share"
        )


def _digest(pairs: Sequence[Pair], refused: Sequence[dict[str, Any]]) -> str:
    """Return a digest of the rows and the content of their pictures: equal ones have the same faults."""
    read_facts(picture for pair in pairs for picture in pair.pictures)
    digest = hashlib.blake2b(json.dumps(refused).encode(), digest_size=16)
    for pair in pairs:
        files = []
        for picture in pair.pictures:
            try:
                files.append(picture.key)
            except UserError:
                files.append(f"{picture} is missing")
        digest.update(json.dumps([pair.subset, pair.row, files]).encode())
    return digest.hexdigest()


def _listed(file: Path, read: str) -> list[dict[str, Any]] | None:
    """Return the lines of a list, or None if there is none of the same rows."""
    if not file.is_file():
        return None
    head, *lines = map(json.loads, file.read_text().splitlines())
    return lines if head["read"] == read else None
