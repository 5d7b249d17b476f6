"""Without numba: no fused kernels, and in numpy what the fits need beside them.

The formulas of `skmlp.model` and `skmlp.optim` serve for activations, losses and
solvers.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import sparse

from skmlp.arrays import Array

name = "reference"

FORWARD: dict[str, Callable[..., None]] = {}
DERIVING: dict[str, Callable[..., None]] = {}
BACKWARD: dict[str, Callable[..., None]] = {}
LOSS: dict[str, Callable[..., float]] = {}
STEP: dict[str, Callable[..., float]] = {}


def csr_dot(
    data: Array, indices: Array, indptr: Array, rows: Array, W: Array, out: Array
) -> None:
    """``out = X[rows] @ W`` without a dense copy of the rows of the CSR matrix X."""
    X = sparse.csr_array((data, indices, indptr), shape=(len(indptr) - 1, len(W)))
    np.copyto(out, X[rows] @ W)


def csr_transposed_dot(
    data: Array, indices: Array, indptr: Array, rows: Array, delta: Array, out: Array
) -> None:
    """``out = X[rows].T @ delta``; see `csr_dot`."""
    X = sparse.csr_array((data, indices, indptr), shape=(len(indptr) - 1, len(out)))
    np.copyto(out, X[rows].T @ delta)


#: What an input is made of a column as; see `skmlp.model.input_encoding`.
NUMBER, RAMP, CATEGORY = range(3)
#: Where the smooth clipping of numbers ends.
CLIP = 3.0


def encode_rows(X: Array, *encoding: Array) -> None:
    """Write the inputs that rows stand for; see `skmlp.model.input_encoding`."""
    *parts, weights, out = encoding
    for j, (kind, source, gate, origin, slope) in enumerate(zip(*parts, strict=True)):
        x = (X[:, source].astype(np.float64) - origin) * slope
        if kind == NUMBER:
            x /= np.sqrt(1 + np.square(x / CLIP))
        else:
            x = np.clip(x, 0, 1) if kind == RAMP else x == 0
        if gate >= 0:
            x = np.where(X[:, gate] != 0, 0.0, x)
        out[:, j] = x * weights[j]


def all_finite(flat: Array) -> bool:
    """Whether every number of a flat array is finite."""
    return bool(np.isfinite(flat).all())


def gradient_norm(params: Array, total: Array, n_penalised: int, alpha: float) -> float:
    """Squared norm of ``total + alpha * params``, alpha on the first n alone."""
    gradient = total.astype(np.float64)
    gradient[:n_penalised] += alpha * params[:n_penalised]
    return float(np.dot(gradient, gradient))


# -- dropout ---------------------------------------------------------------------------

MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
WEYL = 0x9E3779B9, 0xBB67AE85
ROUNDS = 10
WORD = 0xFFFFFFFF


def philox(c0: Array, c1: Array, c2: Array, c3: Array, k0: int, k1: int) -> list[Array]:
    """Four random words of 32 bits for each counter, whose words are c0 to c3."""
    word, shift = np.uint64(WORD), np.uint64(32)
    m0, m1 = (np.uint64(m) for m in MULTIPLIERS)
    for _ in range(ROUNDS):
        p0, p1 = m0 * c0, m1 * c2
        c0, c1, c2, c3 = (
            (p1 >> shift) ^ c1 ^ np.uint64(k0),
            p1 & word,
            (p0 >> shift) ^ c3 ^ np.uint64(k1),
            p0 & word,
        )
        k0, k1 = (k0 + WEYL[0]) & WORD, (k1 + WEYL[1]) & WORD
    return [c0, c1, c2, c3]


def _words(rows: Array, units: Array, stream: Array, layer: int) -> Array:
    """The random word of each pair of a row number and a unit."""
    number = rows.astype(np.uint64)
    unit = units.astype(np.uint64)
    number, unit = np.broadcast_arrays(number, unit)
    key0, key1, step = (int(word) for word in stream)
    blocks = philox(
        unit >> np.uint64(2),
        number & np.uint64(WORD),
        (number >> np.uint64(32)) | np.uint64(layer << 16),
        np.full_like(number, step & WORD),
        key0,
        key1,
    )
    chosen: Array = np.choose((unit & np.uint64(3)).astype(np.intp), blocks)
    return chosen


def dropout_mask(
    mask: Array, rows: Array, stream: Array, layer: int, threshold: int, scale: float
) -> None:
    """Write what the units of a layer are multiplied by: 0 or `scale`.

    `rows` are the numbers of the rows among all of the fit, below 2^48; `stream` is two
    words of the key and the step (steps 2^32 apart have the same masks); `layer` is 0
    for the features; `threshold` is 2^32 times the share that is dropped.
    """
    units = np.arange(mask.shape[1])
    stays = _words(rows[:, None], units[None, :], stream, layer) >= threshold
    np.multiply(stays, mask.dtype.type(scale), out=mask)


def csr_dropout(
    data: Array,
    indices: Array,
    indptr: Array,
    rows: Array,
    numbers: Array,
    stream: Array,
    threshold: int,
    scale: float,
    out_data: Array,
    out_indices: Array,
    out_indptr: Array,
) -> None:
    """Pick rows of a CSR matrix, their stored elements dropped as `dropout_mask` does.

    `numbers` are those of the rows among all of the fit. The new matrix has room for
    all stored elements of the rows.
    """
    lengths = indptr[rows + 1] - indptr[rows]
    out_indptr[0] = 0
    np.cumsum(lengths, out=out_indptr[1:])
    total = int(out_indptr[-1])
    places = np.arange(total) + np.repeat(indptr[rows] - out_indptr[:-1], lengths)
    out_indices[:total] = indices[places]
    words = _words(np.repeat(numbers, lengths), out_indices[:total], stream, 0)
    out_data[:total] = data[places]
    out_data[:total] *= np.where(words >= threshold, data.dtype.type(scale), 0)
