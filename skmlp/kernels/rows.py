"""Rows that are no dense inputs as they lie: of CSR matrices, and encoded ones."""

# mypy: disable-error-code="untyped-decorator"

from __future__ import annotations

import numpy as np

from skmlp.arrays import Array
from skmlp.kernels.jit import compiled
from skmlp.kernels.reference import CATEGORY, CLIP, RAMP

#: Rows that are encoded at once.
BLOCK = 64


@compiled
def csr_dot(
    data: Array, indices: Array, indptr: Array, rows: Array, W: Array, out: Array
) -> None:
    """``out = X[rows] @ W``, without a dense copy of the rows."""
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


@compiled
def encode_rows(
    X: Array,
    kinds: Array,
    sources: Array,
    gates: Array,
    origins: Array,
    slopes: Array,
    weights: Array,
    out: Array,
) -> None:
    """Write the inputs that rows stand for; see `skmlp.model.input_encoding`.

    Input by input, of so few rows at a time that what is written stays in the cache.
    """
    n = X.shape[0]
    for first in range(0, n, BLOCK):
        last = min(first + BLOCK, n)
        for j in range(kinds.size):
            source, gate = sources[j], gates[j]
            origin, slope, weight = origins[j], slopes[j], weights[j]
            if kinds[j] == RAMP:
                for i in range(first, last):
                    x = (X[i, source] - origin) * slope
                    out[i, j] = min(max(x, 0.0), 1.0) * weight
            elif kinds[j] == CATEGORY:
                for i in range(first, last):
                    out[i, j] = weight if X[i, source] == origin else 0.0
            else:
                for i in range(first, last):
                    x = (X[i, source] - origin) * slope
                    out[i, j] = x / np.sqrt(1.0 + (x / CLIP) ** 2) * weight
            if gate >= 0:
                for i in range(first, last):
                    if X[i, gate] != 0.0:
                        out[i, j] = 0.0
