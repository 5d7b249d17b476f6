"""Dropout's masks, in numpy: pure functions of seed, step, layer, row and unit.

The random numbers are those of Philox4x32-10, a counter-based generator: each block of
four is computed from its own counter alone, so that it does not matter who computes it.

References
----------
Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting",
JMLR 15, 2014; inverted: the units that stay are scaled, so nothing is done in predict.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
WEYL = 0x9E3779B9, 0xBB67AE85
ROUNDS = 10
WORD = 0xFFFFFFFF


def philox(c0: Array, c1: Array, c2: Array, c3: Array, k0: int, k1: int) -> list[Array]:
    """Four random words of 32 bits for each counter.

    Parameters
    ----------
    c0, c1, c2, c3 : ndarray of uint64, below 2^32
        The words of the counters.
    k0, k1 : int
        The words of the key.

    Returns
    -------
    list of four ndarray of uint64
    """
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

    Parameters
    ----------
    mask : ndarray of shape (rows, width)
        Overwritten.
    rows : ndarray of shape (rows,), int64
        The number of each row among all rows of the fit, below 2^48.
    stream : ndarray of shape (3,), uint64
        Two words of the key, and the step. Steps 2^32 apart have the same masks.
    layer : int
        0 for the features, 1 for the first hidden layer, ...
    threshold : int
        2^32 times the share that is dropped.
    scale : float
        One over the share that stays.
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

    Parameters
    ----------
    data, indices, indptr : ndarray
        The matrix.
    rows : ndarray of shape (rows,), intp
        Which rows of it.
    numbers : ndarray of shape (rows,), int64
        The number of each among all rows of the fit.
    stream, threshold, scale
        See `dropout_mask`.
    out_data, out_indices, out_indptr : ndarray
        The new matrix; long enough for all stored elements of the rows.
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
