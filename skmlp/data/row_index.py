"""Some ranges of rows, one after the other: from a row's number to its place, and back.

A table of all rows would take 4 bytes for each of them on every rank; this one takes
its room by the number of ranges.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

#: Buckets for each range: the more, the fewer rows must be searched for.
BUCKETS = 16


class Ranges:
    """Rows that lie here.

    Parameters
    ----------
    ranges : sequence of (int, int)
        First number and count of each run of successive rows, none of them empty. The
        places follow each other in this order, which need not be that of the numbers.
    n_rows : int
        Rows in all, here and elsewhere.
    """

    def __init__(self, ranges: Sequence[tuple[int, int]], n_rows: int) -> None:
        self._starts = np.array([start for start, _ in ranges], np.intp)
        self._counts = counts = np.array([count for _, count in ranges], np.intp)
        self._bases = np.cumsum(counts) - counts
        # Where something else begins: rows that lie here, or rows that don't. What is
        # to be added to their numbers: for the latter, so much that they are negative.
        rising = np.argsort(self._starts)
        edges = np.column_stack([self._starts, self._starts + counts])[rising].ravel()
        self._edges = np.concatenate([np.zeros(1, np.intp), edges])
        self._shifts = np.full(len(self._edges), -n_rows - 1, np.intp)
        self._shifts[1::2] = (self._bases - self._starts)[rising]
        self._ends = np.concatenate([edges, [n_rows]])
        # The stretch at the first number of each bucket.
        size = n_rows // (BUCKETS * len(self._edges)) + 1
        self._bits = size.bit_length()
        firsts = np.arange(0, n_rows + 1, 1 << self._bits)
        self._guess = self._stretch(firsts).astype(np.int32)

    def count_below(self, number: int) -> int:
        """How many of the rows here have a lower number."""
        below = np.clip(number - self._starts, 0, self._counts)
        return int(below.sum())

    def _stretch(self, numbers: Array) -> Array:
        return np.asarray(np.searchsorted(self._edges, numbers, "right") - 1)

    def places(self, numbers: Array) -> Array:
        """The place of each row, or a negative number if it is elsewhere.

        Parameters
        ----------
        numbers : ndarray of int
            Of rows.

        Returns
        -------
        ndarray of intp
        """
        stretch = self._guess[numbers >> self._bits]
        late = np.flatnonzero(numbers >= self._ends[stretch])
        if late.size:
            stretch[late] = self._stretch(numbers[late])
        return np.asarray(self._shifts[stretch] + numbers)

    def numbers(self, places: Array) -> Array:
        """The number of the row at each place."""
        run = np.searchsorted(self._bases, places, "right") - 1
        return np.asarray(places + (self._starts - self._bases)[run])

    def all_numbers(self) -> Array:
        """The numbers of all rows here, in the order of their places."""
        return self.numbers(np.arange(self._counts.sum(), dtype=np.intp))
