"""Which rows of a table go to which shard.

A *part* is a block of successive rows: a partition of a Dask collection. All functions
here depend on their arguments alone.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, chain
from typing import NamedTuple

import numpy as np

#: Shards count as even while the fullest has at most so many times its fair share.
EVEN = 1.1


class Span(NamedTuple):
    """Successive rows of a part: `start` is the first one's number in the table."""

    part: int
    start: int
    rows: int


def join_ranges(spans: Sequence[Span]) -> tuple[tuple[int, int], ...]:
    """(first row, count) of each run of successive rows, of `spans` by rising row."""
    runs: list[tuple[int, int]] = []
    for _, start, rows in spans:
        if runs and sum(runs[-1]) == start:
            runs[-1] = (runs[-1][0], runs[-1][1] + rows)
        else:
            runs.append((start, rows))
    return tuple(runs)


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
) -> list[list[int]]:
    """Give each part to a shard: where it lies if that is fair, and evenly by rows.

    No shard gets more than its even share of all rows plus the largest part. Parts
    that lie nowhere yet keep their order over the shards, so that a shard has few runs
    of rows. `holders` are the workers that hold each part now, `homes` those of the
    shards. Returns the numbers of the parts of each shard, rising, without empty parts.
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
    return [sorted(load.parts) for load in loads]


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


def even_out(placed: Sequence[Sequence[int]], sizes: Sequence[int]) -> list[list[Span]]:
    """The rows of each shard, which has been given whole parts: see `place`.

    Where a shard would have far more than its share, all get the same number to the
    row: the fullest give their last rows, parts cut where need be, and no more rows
    than necessary. `sizes` are the rows of each part of the table. Each shard's spans
    rise.
    """
    starts = [0, *accumulate(sizes)]
    spans = [
        [Span(part, starts[part], sizes[part]) for part in parts if sizes[part]]
        for parts in placed
    ]
    rows = [_count(own) for own in spans]
    share, odd = divmod(sum(rows), len(rows))
    if max(rows) <= max(share + (odd > 0), EVEN * sum(rows) / len(rows)):
        return spans
    quotas = [share] * len(rows)
    for shard in sorted(range(len(rows)), key=lambda k: -rows[k])[:odd]:
        quotas[shard] += 1
    cuts = [_split(own, quota) for own, quota in zip(spans, quotas, strict=True)]
    spare = sorted(chain(*(more for _, more in cuts)))
    evened = []
    for (own, _), quota in zip(cuts, quotas, strict=True):
        more, spare = _split(spare, quota - _count(own))
        evened.append(sorted(own + more))
    return evened


def _count(spans: Sequence[Span]) -> int:
    return sum(span.rows for span in spans)


def _split(spans: Sequence[Span], n_rows: int) -> tuple[list[Span], list[Span]]:
    """The first rows, so many of them, and the others."""
    first, others = [], []
    for part, start, rows in spans:
        n = min(rows, n_rows)
        n_rows -= n
        if n:
            first.append(Span(part, start, n))
        if n < rows:
            others.append(Span(part, start + n, rows - n))
    return first, others
