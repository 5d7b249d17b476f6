"""Where the dense rows of a shard go: one array or one file, filled part by part.

The number of rows may be unknown until the last part has come. An array that grows is
an anonymous memory map, which the system makes larger by moving pages, not bytes: no
row is held twice.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable
from typing import Any

import numpy as np

from skmlp.data.checks import check_finite
from skmlp.data.files import PIECE, FileRows
from skmlp.data.frames import convert, rows_of

Array = np.ndarray[Any, np.dtype[Any]]

#: How much larger an array becomes when it is full. Pages that nobody has written to
#: take no memory.
GROWTH = 1.5


class Table:
    """Takes dense rows, converts each once, and keeps them.

    Not for several threads at once unless the number of rows is known.

    Parameters
    ----------
    features : int
        Columns.
    dtype : dtype
        The training dtype.
    n_rows : int, optional
        All rows; if it is left out, the table grows.
    folder_for : callable
        ``folder_for(size)``: the folder for a table of so many bytes, or "" for the
        memory. A table that grows asks again and again.
    """

    def __init__(
        self,
        features: int,
        dtype: np.dtype[Any],
        n_rows: int | None,
        folder_for: Callable[[int], str],
    ) -> None:
        self._features, self._dtype = features, dtype
        self._row_bytes = features * dtype.itemsize
        self._folder_for = folder_for
        self._known = n_rows is not None
        self._n_rows = n_rows or 0
        self._map: mmap.mmap | None = None
        self._rows: Array | FileRows | None = None
        if n_rows is not None:
            folder = folder_for(n_rows * self._row_bytes)
            shape = (n_rows, features)
            self._rows = (
                FileRows(folder, shape, dtype) if folder else np.empty(shape, dtype)
            )

    @property
    def resident_bytes(self) -> int:
        """What the rows take of this process's memory."""
        if isinstance(self._rows, FileRows):
            return 0
        return self._n_rows * self._row_bytes

    def put(self, at: int, table: Any) -> None:
        """Convert rows into their place.

        Parameters
        ----------
        at : int
            The place of the first one; in a table that grows, the present end.
        table : ndarray or data frame of shape (n, features)
            See `skmlp.data.frames.as_table`.

        Raises
        ------
        ValueError
            A number is not finite in the training dtype, or is none.
        """
        stop = at + len(table)
        if not self._known and stop > self._n_rows:
            self._grow(stop)
        if isinstance(self._rows, FileRows):
            step = max(1, PIECE // max(1, self._row_bytes))
            for start in range(0, len(table), step):
                some = rows_of(table, start, start + step)
                piece = np.empty((len(some), self._features), self._dtype)
                convert(some, piece)
                check_finite(piece, "X")
                self._rows.write(at + start, piece)
            return
        place = self._array(stop)[at:]
        convert(table, place)
        check_finite(place, "X")

    def _array(self, n_rows: int) -> Array:
        """The first rows of the array."""
        if self._known:
            assert isinstance(self._rows, np.ndarray)
            return self._rows[:n_rows]
        if self._map is None or not n_rows * self._row_bytes:
            return np.empty((n_rows, self._features), self._dtype)
        flat = np.frombuffer(self._map, self._dtype, n_rows * self._features)
        return flat.reshape(n_rows, self._features)

    def _grow(self, n_rows: int) -> None:
        """Make room for so many rows in all."""
        size = n_rows * self._row_bytes
        if not isinstance(self._rows, FileRows):
            folder = self._folder_for(size)
            if folder:
                self._move(folder)
            elif size > (0 if self._map is None else len(self._map)):
                self._enlarge(size)
        if isinstance(self._rows, FileRows):
            self._rows.shape = (n_rows, self._features)
        self._n_rows = n_rows

    def _enlarge(self, size: int) -> None:
        """Make the memory map larger, with what is in it."""
        if self._map is None:
            self._map = _anonymous(size)
            return
        size = max(size, int(len(self._map) * GROWTH))
        try:
            self._map.resize(size)
        except (SystemError, BufferError):
            # A system that can't, or a view of it that waits for the garbage
            # collector: then it is copied.
            larger = _anonymous(size)
            larger[: len(self._map)] = memoryview(self._map)
            self._map = larger

    def _move(self, folder: str) -> None:
        """Go on in a file."""
        file = FileRows(folder, (self._n_rows, self._features), self._dtype)
        step = max(1, PIECE // max(1, self._row_bytes))
        for start in range(0, self._n_rows, step):
            stop = min(start + step, self._n_rows)
            file.write(start, self._array(stop)[start:])
        self._rows, self._map = file, None

    def rows(self) -> Array | FileRows:
        """All rows, when all have come; C-contiguous if they are in memory."""
        return self._array(self._n_rows) if self._rows is None else self._rows

    def close(self) -> None:
        """Let go of the file, if there is one."""
        if isinstance(self._rows, FileRows):
            self._rows.close()


def _anonymous(size: int) -> mmap.mmap:
    """Memory of the system, private to this process."""
    if not hasattr(mmap, "MAP_ANONYMOUS"):
        return mmap.mmap(-1, max(size, 1))
    # Shared memory, the default, can't grow.
    memory = mmap.mmap(-1, max(size, 1), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memory
