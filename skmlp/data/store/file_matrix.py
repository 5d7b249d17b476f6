"""A dense matrix in a file: rows are read into bounded buffers.

It is no memory map: the pages of a map that were read count as the process's own, and
a Dask worker whose memory grows over its limit is paused, then killed.
"""

from __future__ import annotations

import os
import tempfile
import threading
import weakref
from typing import Any

import numpy as np

from skmlp.arrays import Array

#: Whether this system can read into given memory at a given place of a file.
AVAILABLE = hasattr(os, "preadv")

#: Bytes that are converted and written at once.
PIECE_BYTES = 2**23

#: In the names of the files, for people who look for what fills a disk.
PREFIX = "skmlp-rows-"


class FileMatrix:
    """A matrix in a file that has no name any more: it ends with its last user.

    It has what is asked of the X of `skmlp.data.partitions.ShardData`. Several threads
    may use it.
    """

    def __init__(self, folder: str, shape: tuple[int, int], dtype: Any) -> None:
        self.shape = shape
        self.dtype = np.dtype(dtype)
        self._row_bytes = shape[1] * self.dtype.itemsize
        self._folder = folder
        self._lock = threading.Lock()
        self._scratch = np.empty((0, shape[1]), self.dtype)
        self._file, path = tempfile.mkstemp(prefix=PREFIX, dir=folder)
        self._close = weakref.finalize(self, os.close, self._file)
        os.unlink(path)

    def write(self, at: int, rows: Array) -> None:
        """Put rows, in the dtype of the matrix, from row number `at` on."""
        data = np.ascontiguousarray(rows, self.dtype).reshape(-1).data.cast("B")
        offset = at * self._row_bytes
        with self._lock:
            self._check_open()
            while data:
                try:
                    done = os.pwrite(self._file, data, offset)
                except OSError as error:
                    raise OSError(
                        error.errno,
                        f"rows could not be written to {self._folder}, where this "
                        "worker keeps what exceeds half of its memory limit "
                        f"({error.strerror}): make room there, choose another folder "
                        "with the worker's --local-directory, or use more workers",
                    ) from error
                data, offset = data[done:], offset + done

    def take(
        self, rows: Array, axis: int = 0, out: Array | None = None, mode: str = "raise"
    ) -> Array:
        """Read rows, as `numpy.ndarray.take` along the first axis.

        They are read in the order of the file, successive ones at once; many of them
        in several pieces.
        """
        assert axis == 0
        if out is None:
            out = np.empty((len(rows), self.shape[1]), self.dtype)
        step = max(1, PIECE_BYTES // max(1, self._row_bytes))
        for start in range(0, len(rows), step):
            self._gather(rows[start : start + step], out[start : start + step])
        return out

    def _gather(self, rows: Array, out: Array) -> None:
        """Read rows in the order of the file, and bring them into theirs."""
        order = np.argsort(rows, kind="stable")
        sorted_rows = rows[order]
        # Where another run of successive rows begins.
        starts = np.flatnonzero(np.diff(sorted_rows, prepend=-2) != 1).tolist()
        firsts = sorted_rows[starts].tolist()
        ends = [*starts[1:], len(rows)]
        with self._lock:
            self._check_open()
            if len(self._scratch) < len(rows):
                self._scratch = np.empty((len(rows), self.shape[1]), self.dtype)
            scratch = self._scratch[: len(rows)]
            for begin, end, first in zip(starts, ends, firsts, strict=True):
                self._read(first, scratch[begin:end])
            out[order] = scratch

    def __getitem__(self, rows: slice | Array) -> Array:
        if not isinstance(rows, slice):
            return self.take(rows)
        start, stop, step = rows.indices(self.shape[0])
        assert step == 1
        out = np.empty((max(stop - start, 0), self.shape[1]), self.dtype)
        with self._lock:
            self._check_open()
            self._read(start, out)
        return out

    def _read(self, first: int, out: Array) -> None:
        """Fill `out` with successive rows."""
        if not out.size:
            return
        data = out.reshape(-1).data.cast("B")
        offset = first * self._row_bytes
        while data:
            done = os.preadv(self._file, [data], offset)
            if done == 0:
                raise EOFError(f"a file of rows ends at byte {offset}")
            data, offset = data[done:], offset + done

    def _check_open(self) -> None:
        if not self._close.alive:
            raise ValueError("this file of rows is closed: the fit is over")

    def close(self) -> None:
        """Give the disk's space back; what reads is waited for."""
        with self._lock:
            self._close()
