"""Sparse rows in files: those of a minibatch are read when they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import sparse

from skmlp.data.store.file_rows import PIECE, FileRows
from skmlp.model.rows import SparseRows

Array = np.ndarray[Any, np.dtype[Any]]


class SparseFileRows:
    """A CSR matrix whose values and column numbers are in files without a name.

    Its blocks are appended in any order; `order` says which rows they are. In memory
    there are 16 bytes for each row: where its values begin and end.

    Parameters
    ----------
    folder : str
        Where.
    features : int
        Columns.
    dtype : dtype
        Of the values.
    """

    def __init__(self, folder: str, features: int, dtype: Any) -> None:
        self.shape = (0, features)
        self.dtype = np.dtype(dtype)
        index = np.int32 if features < 2**31 else np.int64
        self._data = FileRows(folder, (0, 1), self.dtype)
        self._indices = FileRows(folder, (0, 1), index)
        self._end = 0
        #: Where the rows of each block begin and end, as in `indptr`.
        self._blocks: dict[Any, Array] = {}
        self._bounds = np.zeros((2, 0), np.int64)

    def append(self, block: Any, rows: Any) -> None:
        """Write the rows of a block: a CSR matrix. Not from several threads at once."""
        step = max(1, PIECE // self.dtype.itemsize)
        for file, values in ((self._data, rows.data), (self._indices, rows.indices)):
            for at in range(0, rows.nnz, step):
                file.write(self._end + at, values[at : at + step])
        self._blocks[block] = rows.indptr.astype(np.int64) + self._end
        self._end += rows.nnz

    def some(self, block: Any, first: int, last: int) -> Any:
        """Read rows of a block, as a CSR matrix."""
        ends = self._blocks[block][first : last + 1]
        begin, cuts = ends[:1], np.array([0, ends[-1] - ends[0]])
        values = self._data.runs(begin, cuts), self._indices.runs(begin, cuts)
        shape = (last - first, self.shape[1])
        return sparse.csr_array((*values, ends - ends[0]), shape=shape)

    def cut(self, block: Any, n_rows: int) -> None:
        """Forget all but the first rows of a block; the disk's space stays taken."""
        self._blocks[block] = self._blocks[block][: n_rows + 1].copy()

    def order(self, blocks: Sequence[Any]) -> None:
        """Take the rows of these blocks, in this order."""
        ends = [self._blocks.pop(block) for block in blocks]
        empty = np.zeros(0, np.int64)
        self._bounds = np.stack(
            [
                np.concatenate([empty, *(end[:-1] for end in ends)]),
                np.concatenate([empty, *(end[1:] for end in ends)]),
            ]
        )
        self.shape = (self._bounds.shape[1], self.shape[1])

    def rows(self, numbers: Array) -> SparseRows:
        """Read rows, in the order of the files; successive ones at once."""
        begins, ends = self._bounds[:, numbers]
        order = np.argsort(begins, kind="stable")
        begins, ends = begins[order], ends[order]
        indptr = np.zeros(len(numbers) + 1, np.int64)
        np.cumsum(ends - begins, out=indptr[1:])
        # Where another run of successive values begins.
        apart = np.ones(len(numbers), bool)
        apart[1:] = begins[1:] != ends[:-1]
        starts = np.flatnonzero(apart)
        firsts = begins[starts]
        cuts = np.append(indptr[starts], indptr[-1])
        data = self._data.runs(firsts, cuts)
        indices = self._indices.runs(firsts, cuts)
        places = np.empty(len(numbers), np.intp)
        places[order] = np.arange(len(numbers))
        kind = np.int32 if indptr[-1] < 2**31 else np.int64
        parts = data, indices, indptr.astype(kind)
        return SparseRows(parts, places, self.shape[1])

    def close(self) -> None:
        """Give the disk's space back."""
        self._data.close()
        self._indices.close()
