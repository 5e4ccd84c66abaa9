"""Inputs that were longer than `max_length` and lost the end of their text: counted, and the first ones named."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

from gen2embed.utils.log import log

NAMED = 3  # inputs, in a message and a manifest


@dataclass(frozen=True)
class Cut:
    """How many of `total` inputs were cut at `max_length` tokens, and the tokens that the first of them need."""

    count: int = 0
    total: int = 0
    max_length: int = 0
    first: tuple[str, ...] = ()

    @classmethod
    def of(cls, needed: Iterable[tuple[str, int]], total: int, max_length: int) -> Cut:
        """Count inputs, given by name and needed tokens."""
        names = [f"{name} ({tokens} tokens)" for name, tokens in needed]
        return cls(len(names), total, max_length, tuple(names[:NAMED]))

    def __add__(self, other: Cut) -> Cut:
        first = (*self.first, *other.first)[:NAMED]
        return Cut(self.count + other.count, self.total + other.total, max(self.max_length, other.max_length), first)

    def describe(self) -> dict[str, Any]:
        """Return the count for a manifest."""
        return {"count": self.count, "of": self.total, "max_length": self.max_length, "first": list(self.first)}

    @classmethod
    def read(cls, described: dict[str, Any] | None) -> Cut:
        """Return what `describe` described; a count of nothing for None."""
        if described is None:
            return cls()
        return cls(described["count"], described["of"], described["max_length"], tuple(described["first"]))

    def warn(self, what: str) -> None:
        """Warn of `what` if any of it was cut, once a process for the same inputs."""
        if self.count:
            more = ", …" if self.count > len(self.first) else ""
            _warn(
                f"{self.count} of {self.total} {what} lost the end of their text at model.max_length={self.max_length} "
                f"tokens, so that texts which differ after it are embedded alike: {'; '.join(self.first)}{more}; raise "
                "model.max_length, or shorten them"
            )


@cache
def _warn(message: str) -> None:
    log.warning("%s", message)
