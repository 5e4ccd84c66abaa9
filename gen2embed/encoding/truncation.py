"""Count the inputs that were longer than `max_length` and lost the end of their text, and name the first ones."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

from gen2embed.utils.log import log

NAMED = 3  # inputs, in a message and a manifest


@dataclass(frozen=True)
class TruncationCount:
    """How many of `total` inputs were truncated.

    Args:
        count: Truncated inputs.
        total: All inputs.
        max_length: Tokens of an input at most.
        first: The names of the first truncated inputs, with the tokens that they need.
    """

    count: int = 0
    total: int = 0
    max_length: int = 0
    first: tuple[str, ...] = ()

    @classmethod
    def count_needed(cls, needed: Iterable[tuple[str, int]], total: int, max_length: int) -> TruncationCount:
        """Count truncated inputs from their names and the tokens that they need."""
        names = [f"{name} ({tokens} tokens)" for name, tokens in needed]
        return cls(len(names), total, max_length, tuple(names[:NAMED]))

    def __add__(self, other: TruncationCount) -> TruncationCount:
        longest, first = max(self.max_length, other.max_length), (*self.first, *other.first)[:NAMED]
        return TruncationCount(self.count + other.count, self.total + other.total, longest, first)

    def describe(self) -> dict[str, Any]:
        """Return plain values for a manifest."""
        return {"count": self.count, "of": self.total, "max_length": self.max_length, "first": list(self.first)}

    @classmethod
    def read(cls, described: dict[str, Any] | None) -> TruncationCount:
        """Return the count that `describe` described; an empty one for None."""
        if described is None:
            return cls()
        return cls(described["count"], described["of"], described["max_length"], tuple(described["first"]))

    def warn(self, inputs: str) -> None:
        """Warn if any of `inputs`, in words, was truncated; once in a process for the same inputs."""
        if self.count:
            more = ", …" if self.count > len(self.first) else ""
            _warn(
                f"{self.count} of {self.total} {inputs} lost the end of their text at model.max_length="
                f"{self.max_length} tokens, so that texts which differ after it are embedded alike: "
                f"{'; '.join(self.first)}{more}; raise model.max_length, or shorten them"
            )


@cache
def _warn(message: str) -> None:
    log.warning("%s", message)
