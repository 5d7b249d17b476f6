"""Which part of a table goes to which shard.

A *part* is a block of successive rows; a *shard* takes whole parts. All functions here
depend on their arguments alone.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import NamedTuple

import numpy as np

#: The number of rows of a part that nobody has seen yet.
UNKNOWN = -1

#: Shards count as even while the fullest has at most so many times its fair share.
EVEN = 1.1


class Span(NamedTuple):
    """Where the rows of a part stand among all rows, and how many; or `UNKNOWN`."""

    part: int
    start: int
    rows: int


def after(first: Span, span: Span) -> Span:
    """The span of a table that follows on others: they end where `first` begins."""
    start = UNKNOWN
    if UNKNOWN not in (first.start, span.start):
        start = first.start + span.start
    return Span(first.part + span.part, start, span.rows)


def join_ranges(spans: Sequence[Span]) -> tuple[tuple[int, int], ...]:
    """(first row, count) of each run of successive rows, of `spans` by rising row."""
    runs: list[tuple[int, int]] = []
    for _, start, rows in spans:
        if runs and sum(runs[-1]) == start:
            runs[-1] = (runs[-1][0], runs[-1][1] + rows)
        else:
            runs.append((start, rows))
    return tuple(runs)


def sized(spans: Sequence[Span], sizes: Sequence[int]) -> list[Span]:
    """Spans with rows that are known by now; parts without rows are left out.

    Parameters
    ----------
    spans : sequence of Span
        As they were before the parts had come.
    sizes : sequence of int
        The rows of each part of the table; not looked at where the spans say them.
    """
    starts = [0, *accumulate(sizes)]
    found = []
    for part, start, rows in spans:
        rows = sizes[part] if rows == UNKNOWN else rows
        if rows:
            found.append(Span(part, starts[part] if start == UNKNOWN else start, rows))
    return found


@dataclass
class _Load:
    """A shard while parts are being placed."""

    home: str
    rows: int = 0
    parts: list[int] = field(default_factory=list)

    def take(self, part: int, rows: int) -> None:
        self.parts.append(part)
        self.rows += rows


def place(
    rows: Sequence[int], holders: Sequence[Collection[str]], homes: Sequence[str]
) -> list[list[Span]]:
    """Give each part to a shard: where it lies if that is fair, and evenly by rows.

    No shard gets more than its even share of all rows plus the largest part. Parts
    that lie nowhere yet keep their order over the shards, so that a shard has few runs
    of rows. A function of its arguments alone.

    Parameters
    ----------
    rows : sequence of int
        Rows of each part; parts without rows are left out.
    holders : sequence of collection of str
        The workers that hold each part now; empty for one that is yet to be computed.
    homes : sequence of str
        The worker of each shard.

    Returns
    -------
    list of list of Span
        The parts of each shard, by rising row number. A shard may have none.
    """
    loads = [_Load(home) for home in homes]
    fair = sum(rows) / len(loads)
    homeless = []
    for part, n in enumerate(rows):
        at_home = [load for load in loads if load.home in holders[part]]
        lightest = min(at_home, key=lambda load: load.rows, default=None)
        if n == 0:
            continue
        if lightest is not None and lightest.rows + n / 2 <= fair:
            lightest.take(part, n)
        else:
            homeless.append(part)
    _fill(loads, homeless, rows, fair)
    starts = [0, *np.cumsum(rows).tolist()]
    return [
        [Span(part, starts[part], rows[part]) for part in sorted(load.parts)]
        for load in loads
    ]


def _fill(
    loads: Sequence[_Load], parts: Sequence[int], rows: Sequence[int], fair: float
) -> None:
    """Deal `parts` out in their order, to each shard what it lacks of its share."""
    lacks = np.array([max(fair - load.rows, 0.0) for load in loads])
    total = sum(rows[part] for part in parts)
    if total == 0:
        return
    # The ends of the shards' sections of the line of all these rows; a part goes where
    # its middle falls.
    ends = np.cumsum(lacks) * (total / lacks.sum())
    before = 0
    for part in parts:
        middle = before + rows[part] / 2
        shard = int(np.searchsorted(ends, middle, side="right"))
        loads[min(shard, len(loads) - 1)].take(part, rows[part])
        before += rows[part]


class Move(NamedTuple):
    """Rows that leave a shard for another one, the last of its rows first."""

    giver: int
    taker: int
    spans: tuple[Span, ...]


def evened(
    spans: Sequence[Sequence[Span]], most: int
) -> tuple[list[Move], list[list[Span]]]:
    """Even shards out where one has far more than its share, row by row.

    Each shard gives from its end what it has too many of, parts cut where need be, so
    that it has nothing to close up; what it takes comes after its own rows. No more
    rows than necessary move. A function of its arguments alone.

    Parameters
    ----------
    spans : sequence of sequence of Span
        The parts of each shard, of known rows, in the order of their places.
    most : int
        Rows of one move at most, at least 1.

    Returns
    -------
    moves : list of Move
        Those of a giver stand together, in the order in which its rows go.
    spans : list of list of Span
        What each shard has afterwards, in the order of the places. Those of what it
        has taken are rising, and of each part it has one span only.
    """
    rows = [sum(span.rows for span in own) for own in spans]
    share, odd = divmod(sum(rows), len(rows))
    if max(rows) <= max(share + (odd > 0), EVEN * sum(rows) / len(rows)):
        return [], [list(own) for own in spans]
    quotas = [share] * len(rows)
    for shard in sorted(range(len(rows)), key=lambda k: -rows[k])[:odd]:
        quotas[shard] += 1
    kept = [list(own) for own in spans]
    taken: list[list[Span]] = [[] for _ in spans]
    moves: list[Move] = []
    lacks = [[k, quotas[k] - n] for k, n in enumerate(rows) if n < quotas[k]]
    for giver, quota in enumerate(quotas):
        surplus = rows[giver] - quota
        while surplus > 0:
            taker, lack = lacks[-1]
            n = min(surplus, lack, most)
            moves.append(Move(giver, taker, _cut_off(kept[giver], n)))
            taken[taker] += moves[-1].spans
            surplus -= n
            lacks[-1][1] -= n
            if not lacks[-1][1]:
                lacks.pop()
    return moves, [own + _joined(more) for own, more in zip(kept, taken, strict=True)]


def _cut_off(spans: list[Span], n_rows: int) -> tuple[Span, ...]:
    """Take the last rows away from a shard; return them, the last ones first."""
    gone = []
    while n_rows:
        part, start, rows = spans.pop()
        n = min(n_rows, rows)
        if n < rows:
            spans.append(Span(part, start, rows - n))
        gone.append(Span(part, start + rows - n, n))
        n_rows -= n
    return tuple(gone)


def _joined(spans: Sequence[Span]) -> list[Span]:
    """By rising rows, with pieces of a part that follow on each other put together."""
    joined: list[Span] = []
    for span in sorted(spans):
        last = joined[-1] if joined else Span(UNKNOWN, 0, 0)
        if (last.part, last.start + last.rows) == span[:2]:
            joined[-1] = last._replace(rows=last.rows + span.rows)
        else:
            joined.append(span)
    return joined
