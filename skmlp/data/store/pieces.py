"""Targets or weights of a shard, in pieces until all have come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from skmlp.data.assignment import Span

Array = np.ndarray[Any, np.dtype[Any]]


class Pieces:
    """Values of rows: of each part one piece, or several that came one by one."""

    def __init__(self) -> None:
        #: Of each part, by the first row.
        self._parts: dict[int, dict[int, Array]] = {}

    def put(self, part: int, at: int, values: Array) -> None:
        """Keep the values of the rows of a part from number `at` on."""
        self._parts.setdefault(part, {})[at] = values

    def some(self, part: int, start: int, stop: int) -> Array:
        """Some values of a part that came in one piece: a view."""
        return self._parts[part][0][start:stop]

    def settle(self, spans: Sequence[Span]) -> None:
        """Keep nothing but the first rows of these parts, as many as they say."""
        left = {span.part: span.rows for span in spans}
        for part in self._parts.keys() - left.keys():
            del self._parts[part]
        for part, pieces in self._parts.items():
            for at, values in pieces.items():
                if at + len(values) > left[part]:
                    # Without the array of all of them.
                    pieces[at] = values[: max(left[part] - at, 0)].copy()

    def joined(self, spans: Sequence[Span]) -> Array:
        """One array of the parts, at least one, which are let go one by one."""
        every = [piece for s in spans for piece in self._parts[s.part].values()]
        dtype = np.result_type(*{piece.dtype for piece in every})
        whole = np.empty((sum(map(len, every)), *every[0].shape[1:]), dtype)
        del every
        end = 0
        for span in spans:
            pieces = self._parts.pop(span.part)
            for at in sorted(pieces):
                values = pieces.pop(at)
                whole[end : end + len(values)] = values
                end += len(values)
        return whole


def narrowed(labels: Array) -> Array:
    """A copy of labels; of integers in fewer bytes, if they fit."""
    if labels.dtype.kind in "iu" and labels.dtype != np.uint64 and labels.size:
        # Signed ones, so that those of all parts together are integers, too.
        for narrow in (np.int8, np.int16, np.int32):
            limits = np.iinfo(narrow)
            if limits.min <= labels.min() and labels.max() <= limits.max:
                return labels.astype(narrow)
    return np.array(labels)
