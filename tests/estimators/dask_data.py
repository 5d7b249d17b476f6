"""Lazy Dask arrays of the rows of other tests."""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np
from scipy import sparse

CHUNKS = (7, 0, 16, 7)


def dask_of(a: Any, chunks: Any = CHUNKS) -> Any:
    """A lazy array cut along its rows."""
    if sparse.issparse(a):
        meta = sparse.csr_matrix((0, 0))
        return dask_of(a.toarray(), chunks).map_blocks(sparse.csr_matrix, meta=meta)
    a = np.asarray(a)
    if sum(np.atleast_1d(chunks)) != len(a) and not isinstance(chunks, int):
        chunks = 7
    return da.from_array(a, chunks=(chunks,) + (-1,) * (a.ndim - 1))


def refuse(block: Any) -> Any:
    """For `dask.array.Array.map_blocks`: let it fail where a block is computed."""
    raise ValueError("computed")
