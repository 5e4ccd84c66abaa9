"""Fill batches with whole clusters: which cluster goes into which part of which batch."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Sequence

import numpy as np

from gen2embed.data.positives import Cluster, Parts, Positives

LOOK_AHEAD = 64  # clusters that are passed over in search of one that fits


def fill_batches(
    clusters: Sequence[Cluster],
    spare: Sequence[Cluster],
    size: int,
    parts: int,
    positives: Positives | None = None,
    spread_by: np.random.Generator | None = None,
) -> list[Parts]:
    """Return batches of whole clusters, each in parts of equal size.

    A cluster goes into the first part with room for it, or waits for the next batch. Room that no waiting cluster fits
    into is filled with clusters that come again, and then with single rows of them. No batch has a row twice.

    Args:
        clusters: The clusters, in the order in which they come.
        spare: Further clusters to complete batches with; all together have at least as many rows as a batch.
        size: The number of rows of a part.
        parts: The number of parts of a batch.
        positives: Which rows have equal positives; batches get negatives from others where they have none.
        spread_by: Keeps rows of equal positives in different batches, as far as there are others, in an order that
            these random numbers decide; None does not.
    """
    distinct = positives if spread_by is not None else None
    if distinct is not None and spread_by is not None:
        clusters = distinct.spread(clusters, spread_by)
    # a subset that is smaller than a batch has parts that may be smaller than a cluster
    waiting = deque(cluster[at : at + size] for cluster in clusters for at in range(0, len(cluster), size))
    again = itertools.cycle([*clusters, *spare])
    batches: list[Parts] = []
    while waiting:
        taken = _Taken(distinct)
        batch = [_take_fitting(waiting, size, taken) for _ in range(parts)]
        if distinct and waiting:  # the clusters that wait can only repeat a positive
            for part in batch:
                part.extend(_take_fitting(waiting, size - _count(part), taken, repeat=True))
        for part in batch:
            _complete(part, size, again, taken)
        batches.append(batch)
    if positives:
        positives.mend(batches)
    return batches


def _complete(part: list[Cluster], size: int, again: itertools.cycle[Cluster], taken: _Taken) -> None:
    """Fill what is left of a part with clusters that come again, and with single rows where none of them fits."""
    if room := size - _count(part):
        part.extend(_take_fitting(deque(itertools.islice(again, LOOK_AHEAD)), room, taken, repeat=True))
    while (room := size - _count(part)) > 0:
        if rows := [row for row in next(again) if row not in taken.rows][:room]:
            part.append(rows)
            taken.add(rows)


class _Taken:
    """The rows of a batch, and the numbers of their positives where equal ones are kept apart."""

    def __init__(self, distinct: Positives | None) -> None:
        self.distinct, self.rows, self.numbers = distinct, set[int](), set[int]()

    def add(self, cluster: Cluster) -> None:
        self.rows.update(cluster)
        if self.distinct:
            self.numbers.update(self.distinct.numbers[list(cluster)].tolist())

    def allows(self, cluster: Cluster, *, repeat: bool) -> bool:
        """Return whether a cluster brings no row that is taken and, unless positives may repeat, no such positive."""
        fresh = repeat or not self.distinct or self.numbers.isdisjoint(self.distinct.numbers[list(cluster)].tolist())
        return fresh and self.rows.isdisjoint(cluster)


def _take_fitting(waiting: deque[Cluster], room: int, taken: _Taken, *, repeat: bool = False) -> list[Cluster]:
    """Take the next waiting clusters that fit into `room` rows and that the batch allows; others go on waiting."""
    part: list[Cluster] = []
    passed: list[Cluster] = []
    ahead = max(LOOK_AHEAD, 4 * room) if taken.distinct and not repeat else LOOK_AHEAD
    while waiting and room and len(passed) < ahead:
        cluster = waiting.popleft()
        if len(cluster) <= room and taken.allows(cluster, repeat=repeat):
            part.append(cluster)
            taken.add(cluster)
            room -= len(cluster)
        else:
            passed.append(cluster)
    waiting.extendleft(reversed(passed))
    return part


def _count(part: Sequence[Cluster]) -> int:
    return sum(map(len, part))
