"""Predictions in blocks of bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import sparse

from skmlp import kernels as kernel_sets
from skmlp.model.activations import kernels_of
from skmlp.model.losses import output_of

Array = np.ndarray[Any, np.dtype[Any]]

#: Numbers that the widest layer of a block may hold: 8 MB in float64.
BLOCK_NUMBERS = 2**20
#: Rows that a block has in any case.
LEAST_ROWS = 64

_FLOATS = (np.float32, np.float64)


def forward(
    X: Any,
    coefs: Sequence[Array],
    intercepts: Sequence[Array],
    activations: Sequence[Any],
    output: str,
    kernels: str,
    heads: Sequence[int] = (),
    finish: Callable[[Array, slice], Any] | None = None,
) -> Any:
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
    finish : callable, optional
        ``finish(outputs, rows)`` makes of the outputs of a block of rows, which it must
        not keep, an array with an entry for each of them, or a list of such arrays.
        The outputs of all rows are then never in memory together.

    Returns
    -------
    ndarray of shape (n, n_outputs)
        In the dtype that `X` and the layers have in common. With `finish`, what it
        makes of all rows.
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
    widest = max(X.shape[1], *(W.shape[1] for W, _ in layers))
    size = min(n, max(BLOCK_NUMBERS // widest, LEAST_ROWS))
    buffers = [np.empty((size, W.shape[1]), dtype) for W, _ in layers[:-1]]
    outputs = np.empty((n if finish is None else size, layers[-1][0].shape[1]), dtype)
    result = outputs if finish is None else None
    activate = [kernels_of(activation, tables)[0] for activation in activations]
    if isinstance(output, str) and output in tables.FORWARD:
        activate.append(output_of(output, heads, tables))
    else:
        activate.append(kernels_of(output, tables)[0])
    with np.errstate(all="ignore"):
        for start in range(0, n, size):
            rows = slice(start, start + size)
            a = X[rows].astype(dtype, copy=False)
            n_rows = a.shape[0]
            outs = [z[:n_rows] for z in buffers]
            outs.append(outputs[rows] if finish is None else outputs[:n_rows])
            for (W, b), z, function in zip(layers, outs, activate, strict=True):
                if isinstance(a, np.ndarray):
                    np.dot(a, W, out=z)
                else:
                    np.copyto(z, a @ W)
                function(z, b)
                a = z
            if finish is not None:
                result = _with_block(result, finish(a, rows), rows, n)
    return result


def row_blocks(n: int, width: int) -> list[slice]:
    """Slices of n rows, each of so few that tables of this width stay small."""
    size = max(BLOCK_NUMBERS // max(width, 1), LEAST_ROWS)
    return [slice(start, start + size) for start in range(0, n, size)]


def _with_block(known: Any, part: Any, rows: slice, n: int) -> Any:
    """What is known of all n rows, with that of a block of them in its place."""
    if isinstance(part, list):
        known = known or [None] * len(part)
        return [_with_block(k, p, rows, n) for k, p in zip(known, part, strict=True)]
    if part is None or len(part) == n:
        return part
    if known is None:
        known = np.empty((n, *part.shape[1:]), part.dtype)
    known[rows] = part
    return known


def _unlike(array: Any, dtype: np.dtype[Any]) -> bool:
    """Whether an array must be converted before the kernels can take it."""
    return (
        not isinstance(array, np.ndarray)
        or array.dtype != dtype
        or not (array.ndim == 2 or array.flags.c_contiguous)
    )
