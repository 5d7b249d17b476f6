"""Products with some rows of a CSR matrix, without a dense copy of the rows."""

# mypy: disable-error-code="untyped-decorator"

from __future__ import annotations

from typing import Any

import numpy as np

from skmlp.kernels.jit import compiled

Array = np.ndarray[Any, np.dtype[Any]]


@compiled
def csr_dot(
    data: Array, indices: Array, indptr: Array, rows: Array, W: Array, out: Array
) -> None:
    """``out = X[rows] @ W``."""
    for i in range(rows.size):
        out[i, :] = 0
        for k in range(indptr[rows[i]], indptr[rows[i] + 1]):
            value = data[k]
            feature = indices[k]
            for j in range(out.shape[1]):
                out[i, j] += value * W[feature, j]


@compiled
def csr_transposed_dot(
    data: Array, indices: Array, indptr: Array, rows: Array, delta: Array, out: Array
) -> None:
    """``out = X[rows].T @ delta``."""
    out[:, :] = 0
    for i in range(rows.size):
        for k in range(indptr[rows[i]], indptr[rows[i] + 1]):
            value = data[k]
            feature = indices[k]
            for j in range(out.shape[1]):
                out[feature, j] += value * delta[i, j]
