"""Predictions in blocks of bounded memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import sparse

from skmlp import kernels as kernel_sets

Array = np.ndarray[Any, np.dtype[Any]]

#: Numbers that the widest layer of a block may hold: 8 MB in float64.
BLOCK_NUMBERS = 2**20


def forward(
    X: Any,
    coefs: Sequence[Array],
    intercepts: Sequence[Array],
    activation: str,
    output: str,
    kernels: str,
) -> Array:
    """Run a fitted network on rows.

    Parameters
    ----------
    X : ndarray or sparse matrix of shape (n, n_features)
        The rows.
    coefs, intercepts : list of ndarray
        The layers.
    activation, output : str
        Of the hidden layers and of the last.
    kernels : {"reference", "compiled"}
        The kernel set.

    Returns
    -------
    ndarray of shape (n, n_outputs)
        In the dtype that `X` and the layers have in common.
    """
    tables = kernel_sets.load(kernels)
    hidden, last = tables.FORWARD[activation], tables.FORWARD[output]
    coefs = [np.asarray(W) for W in coefs]
    intercepts = [np.asarray(b) for b in intercepts]
    dtype = np.result_type(X.dtype, *coefs, *intercepts)
    if dtype not in (np.float32, np.float64):
        dtype = np.dtype(np.float64)
    layers = [
        (
            W.astype(dtype, copy=False),
            np.ascontiguousarray(b, dtype=dtype),
        )
        for W, b in zip(coefs, intercepts, strict=True)
    ]
    if sparse.issparse(X):
        X = X.tocsr()
    n = X.shape[0]
    result = np.empty((n, layers[-1][0].shape[1]), dtype)
    widest = max(X.shape[1], *(W.shape[1] for W, _ in layers))
    rows = min(n, max(BLOCK_NUMBERS // widest, 64))
    buffers = [np.empty((rows, W.shape[1]), dtype) for W, _ in layers[:-1]]
    with np.errstate(all="ignore"):
        for start in range(0, n, rows):
            stop = min(start + rows, n)
            a = X[start:stop].astype(dtype, copy=False)
            for i, (W, b) in enumerate(layers):
                is_last = i == len(layers) - 1
                z = result[start:stop] if is_last else buffers[i][: stop - start]
                if sparse.issparse(a):
                    np.copyto(z, a @ W)
                else:
                    np.dot(a, W, out=z)
                (last if is_last else hidden)(z, b)
                a = z
    return result
