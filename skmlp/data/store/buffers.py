"""Where the dense rows of a shard go: one array or one file, filled part by part.

The number of rows may be unknown until the last part has come, and rows may leave again
for another shard. An array is an anonymous memory map, which the system makes larger
or smaller by moving pages, not bytes: no row is held twice.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from skmlp.data.checks import checked_rows, largest
from skmlp.data.frames import convert, rows_of
from skmlp.data.store.file_rows import PIECE, FileRows

Array = np.ndarray[Any, np.dtype[Any]]

#: How much larger an array becomes when it is full. Pages that nobody has written to
#: take no memory.
GROWTH = 1.5


class Table:
    """Takes dense rows, converts each once, and keeps them.

    Not for several threads at once, unless there is room for what they put.

    Parameters
    ----------
    features : int
        Columns.
    dtype : dtype
        The training dtype.
    folder_for : callable
        ``folder_for(size)``: the folder for a table of so many bytes, or "" for the
        memory. It is asked whenever the table changes its size.
    """

    def __init__(
        self, features: int, dtype: np.dtype[Any], folder_for: Callable[[int], str]
    ) -> None:
        self._features, self._dtype = features, dtype
        self._row_bytes = features * dtype.itemsize
        self._folder_for = folder_for
        #: Rows that there is room for, and that are told of.
        self.n_rows = 0
        self._map: mmap.mmap | None = None
        self._file: FileRows | None = None

    @property
    def resident_bytes(self) -> int:
        """What the rows take of this process's memory."""
        return 0 if self._file is not None else self.n_rows * self._row_bytes

    def put(self, at: int, table: Any) -> dict[int, float]:
        """Convert rows into their place; tell which columns are unscaled.

        Parameters
        ----------
        at : int
            The place of the first one; not beyond the present end.
        table : ndarray or data frame of shape (n, features)
            See `skmlp.data.frames.as_table`.

        Raises
        ------
        ValueError
            A number is not finite in the training dtype, or is none.
        """
        self.grow(at + len(table))
        if self._file is not None:
            found = []
            for part in self._pieces(len(table)):
                some = rows_of(table, part.start, part.stop)
                piece = np.empty((len(some), self._features), self._dtype)
                convert(some, piece)
                found.append(checked_rows(piece, table))
                self._file.write(at + part.start, piece)
            return largest(found)
        place = self._array(at + len(table))[at:]
        convert(table, place)
        return checked_rows(place, table)

    def _pieces(self, n_rows: int) -> Iterator[slice]:
        """Cut rows into pieces of bounded size, as they go into a file and out."""
        step = max(1, PIECE // max(1, self._row_bytes))
        for start in range(0, n_rows, step):
            yield slice(start, min(start + step, n_rows))

    def copy_of(self, start: int, stop: int) -> Array:
        """Some rows, as an array of its own."""
        if self._file is not None:
            return self._file[start:stop]
        return self._array(stop)[start:].copy()

    def _array(self, n_rows: int) -> Array:
        """The first rows of the array."""
        if self._map is None or not n_rows * self._row_bytes:
            return np.empty((n_rows, self._features), self._dtype)
        flat = np.frombuffer(self._map, self._dtype, n_rows * self._features)
        return flat.reshape(n_rows, self._features)

    def grow(self, n_rows: int) -> None:
        """Make room for so many rows in all, if there is less."""
        if n_rows <= self.n_rows:
            return
        size = n_rows * self._row_bytes
        if self._file is None:
            folder = self._folder_for(size)
            if folder:
                self._move(folder)
            elif size > (0 if self._map is None else len(self._map)):
                self._enlarge(size)
        if self._file is not None:
            self._file.shape = (n_rows, self._features)
        self.n_rows = n_rows

    def shrink(self, n_rows: int) -> None:
        """Keep so many of the first rows, and give back the room of the others."""
        if n_rows >= self.n_rows:
            return
        self.n_rows = n_rows
        if self._file is not None:
            self._file.shrink(n_rows)
        elif not n_rows * self._row_bytes:
            self._map = None
        elif self._map is not None:
            try:
                self._map.resize(n_rows * self._row_bytes)
            except (SystemError, BufferError):
                # A system that can't, or a view that waits for the garbage collector:
                # the room stays until the end of the fit.
                return

    def leave_file(self) -> None:
        """Go back to the memory if there is room by now."""
        file = self._file
        if file is None or self._folder_for(self.n_rows * self._row_bytes):
            return
        self._enlarge(self.n_rows * self._row_bytes)
        self._file = None
        rows = self._array(self.n_rows)
        for part in self._pieces(self.n_rows):
            rows[part] = file[part]
        file.close()

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
        file = FileRows(folder, (self.n_rows, self._features), self._dtype)
        for part in self._pieces(self.n_rows):
            file.write(part.start, self._array(part.stop)[part.start :])
        self._file, self._map = file, None

    def rows(self) -> Array | FileRows:
        """All rows, when all have come; C-contiguous if they are in memory."""
        return self._array(self.n_rows) if self._file is None else self._file

    def close(self) -> None:
        """Let go of the file, if there is one."""
        if self._file is not None:
            self._file.close()


def _anonymous(size: int) -> mmap.mmap:
    """Memory of the system, private to this process."""
    if not hasattr(mmap, "MAP_ANONYMOUS"):
        return mmap.mmap(-1, max(size, 1))
    # Shared memory, the default, can't grow.
    memory = mmap.mmap(-1, max(size, 1), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memory
