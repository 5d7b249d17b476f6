"""Predictions in blocks of bounded memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import sparse

from skmlp import kernels as kernel_sets
from skmlp.model.activations import kernels_of
from skmlp.model.losses import output_of

Array = np.ndarray[Any, np.dtype[Any]]

#: Numbers that the widest layer of a block may hold: 8 MB in float64.
BLOCK_NUMBERS = 2**20

_FLOATS = (np.float32, np.float64)


def forward(
    X: Any,
    coefs: Sequence[Array],
    intercepts: Sequence[Array],
    activations: Sequence[Any],
    output: str,
    kernels: str,
    heads: Sequence[int] = (),
) -> Array:
    """Run a fitted network on rows.

    Parameters
    ----------
    X : ndarray or sparse matrix of shape (n, n_features)
        The rows.
    coefs, intercepts : list of ndarray
        The layers.
    activations : sequence of str or object
        Of each hidden layer.
    output : str
        Activation of the last layer.
    kernels : {"reference", "compiled"}
        The kernel set.
    heads : sequence of int
        The columns of each head of the output layer; see
        `skmlp.model.losses.heads_of`.

    Returns
    -------
    ndarray of shape (n, n_outputs)
        In the dtype that `X` and the layers have in common.
    """
    tables = kernel_sets.load(kernels)
    layers = list(zip(coefs, intercepts, strict=True))
    dtype = X.dtype
    if dtype not in _FLOATS or any(_unlike(W, dtype) for pair in layers for W in pair):
        arrays = [np.asarray(a) for pair in layers for a in pair]
        dtype = np.result_type(X.dtype, *arrays)
        if dtype not in _FLOATS:
            dtype = np.dtype(np.float64)
        layers = [
            (W.astype(dtype, copy=False), np.ascontiguousarray(b, dtype=dtype))
            for W, b in zip(arrays[::2], arrays[1::2], strict=True)
        ]
    if sparse.issparse(X):
        X = X.tocsr()
    n = X.shape[0]
    result = np.empty((n, layers[-1][0].shape[1]), dtype)
    widest = max(X.shape[1], *(W.shape[1] for W, _ in layers))
    rows = min(n, max(BLOCK_NUMBERS // widest, 64))
    buffers = [np.empty((rows, W.shape[1]), dtype) for W, _ in layers[:-1]]
    activate = [kernels_of(activation, tables)[0] for activation in activations]
    if isinstance(output, str) and output in tables.FORWARD:
        activate.append(output_of(output, heads, tables))
    else:
        activate.append(kernels_of(output, tables)[0])
    with np.errstate(all="ignore"):
        for start in range(0, n, rows):
            stop = min(start + rows, n)
            a = X[start:stop].astype(dtype, copy=False)
            outs = [*(z[: stop - start] for z in buffers), result[start:stop]]
            for (W, b), z, function in zip(layers, outs, activate, strict=True):
                if isinstance(a, np.ndarray):
                    np.dot(a, W, out=z)
                else:
                    np.copyto(z, a @ W)
                function(z, b)
                a = z
    return result


def _unlike(array: Any, dtype: np.dtype[Any]) -> bool:
    """Whether an array must be converted before the kernels can take it."""
    return (
        not isinstance(array, np.ndarray)
        or array.dtype != dtype
        or not (array.ndim == 2 or array.flags.c_contiguous)
    )
