"""Where the sparse rows of a shard go: blocks in memory, or files.

A part is kept in blocks of bounded size, so that it can be joined with others, or leave
for another shard, without being held twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import sparse

from skmlp.data.assignment import Span
from skmlp.data.checks import checked_rows, largest
from skmlp.data.store.file_rows import PIECE
from skmlp.data.store.sparse_file_rows import SparseFileRows

Array = np.ndarray[Any, np.dtype[Any]]

#: A block: the number of its part, and of its first row in what is here of that.
Block = tuple[int, int]


class SparseTable:
    """Takes sparse rows, converts each once, and keeps them.

    Not for several threads at once.

    Parameters
    ----------
    features : int
        Columns.
    dtype : dtype
        The training dtype.
    folder_for : callable
        ``folder_for(size)``: the folder for so many bytes, or "" for the memory. It is
        asked whenever rows come.
    """

    def __init__(
        self, features: int, dtype: np.dtype[Any], folder_for: Callable[[int], str]
    ) -> None:
        self._features, self._dtype = features, dtype
        self._folder_for = folder_for
        #: Of each part, the number of rows of each block, by its first one.
        self._parts: dict[int, dict[int, int]] = {}
        self._blocks: dict[Block, Any] = {}
        self._bytes = 0
        self._file: SparseFileRows | None = None

    @property
    def resident_bytes(self) -> int:
        """What the rows take of this process's memory."""
        return 0 if self._file is not None else self._bytes

    def put(self, part: int, at: int, table: Any) -> tuple[int, dict[int, float]]:
        """Convert and keep rows of a part, from number `at` on.

        Returns
        -------
        int
            Their bytes.
        dict
            See `skmlp.data.checks.unscaled`.

        Raises
        ------
        ValueError
            A number is not finite in the training dtype.
        """
        rows = sparse.csr_array(table)
        n_rows, total, found = rows.shape[0], 0, []
        row_bytes = max(1, _size(rows) // max(1, n_rows))
        step = max(1, PIECE // row_bytes)
        # A part without rows is a block, too.
        for start in range(0, max(n_rows, 1), step):
            # A copy: the part may be a view of what Dask frees or uses again.
            block = rows if step >= n_rows else rows[start : start + step]
            block = block.astype(self._dtype, copy=True)
            found.append(checked_rows(block))
            total += _size(block)
            self._keep((part, at + start), block)
        return total, largest(found)

    def _keep(self, block: Block, rows: Any) -> None:
        self._parts.setdefault(block[0], {})[block[1]] = rows.shape[0]
        self._bytes += _size(rows)
        self._blocks[block] = rows
        if self._file is None:
            folder = self._folder_for(self._bytes)
            if not folder:
                return
            self._file = SparseFileRows(folder, self._features, self._dtype)
        while self._blocks:
            self._file.append(*self._blocks.popitem())

    def copy_of(self, part: int, start: int, stop: int) -> Any:
        """Some rows of a part, as a CSR matrix of its own."""
        found = []
        for at, n_rows in sorted(self._parts[part].items()):
            first, last = max(start - at, 0), min(stop - at, n_rows)
            if first >= last:
                continue
            if self._file is not None:
                found.append(self._file.some((part, at), first, last))
            else:
                found.append(self._blocks[part, at][first:last])
        return sparse.vstack(found, "csr")

    def keep_first(self, part: int, n_rows: int) -> None:
        """Keep so many of the first rows of a part."""
        for at, count in list(self._parts.get(part, {}).items()):
            left = max(n_rows - at, 0)
            if left >= count:
                continue
            self._parts[part][at] = left
            if self._file is not None:
                self._file.cut((part, at), left)
                continue
            whole = self._blocks[part, at]
            # Without the arrays of the whole block.
            self._blocks[part, at] = whole[:left].copy()
            self._bytes -= _size(whole) - _size(self._blocks[part, at])

    def settle(self, spans: Sequence[Span]) -> None:
        """Keep nothing but the first rows of these parts, as many as they say."""
        left = {span.part: span.rows for span in spans}
        for part in self._parts:
            self.keep_first(part, left.get(part, 0))

    def rows(self, spans: Sequence[Span]) -> Any:
        """All rows, when all have come: a CSR matrix, or one in files.

        Parameters
        ----------
        spans : sequence of Span
            The parts, in the order in which they are wanted.
        """
        order = [(s.part, at) for s in spans for at in sorted(self._parts[s.part])]
        if self._file is not None:
            self._file.order(order)
            return self._file
        return self._joined(order)

    def _joined(self, order: Sequence[Block]) -> Any:
        """One matrix of all blocks, which are let go one after the other."""
        nnz = sum(self._blocks[block].nnz for block in order)
        n_rows = sum(self._blocks[block].shape[0] for block in order)
        index = np.int32 if max(nnz, self._features) < 2**31 else np.int64
        data = np.empty(nnz, self._dtype)
        indices = np.empty(nnz, index)
        indptr = np.zeros(n_rows + 1, index)
        at = filled = 0
        for block in order:
            rows = self._blocks.pop(block)
            end, stop = filled + rows.nnz, at + rows.shape[0]
            data[filled:end] = rows.data
            indices[filled:end] = rows.indices
            indptr[at + 1 : stop + 1] = rows.indptr[1:] + filled
            at, filled = stop, end
        return sparse.csr_array((data, indices, indptr), shape=(n_rows, self._features))

    def close(self) -> None:
        """Let go of the file, if there is one."""
        if self._file is not None:
            self._file.close()


def _size(rows: Any) -> int:
    """The bytes of a CSR matrix."""
    return int(rows.data.nbytes + rows.indices.nbytes + rows.indptr.nbytes)
