"""What is left out: units by dropout, and numbers whose target is missing.

The masks have the same bits as those of `skmlp.kernels.reference`.
"""

# mypy cannot see what numba infers.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

from typing import Any

import numpy as np

from skmlp.kernels.jit import compiled

Array = np.ndarray[Any, np.dtype[Any]]

_ROUNDS = 10
_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
_WORD, _SHIFT = np.uint64(0xFFFFFFFF), np.uint64(32)


@compiled
def philox(c0, c1, c2, c3, k0, k1):
    """Four random words, of one counter; all are uint64 below 2^32."""
    for _ in range(_ROUNDS):
        p0, p1 = _M0 * c0, _M1 * c2
        c0, c1, c2, c3 = (
            (p1 >> _SHIFT) ^ c1 ^ k0,
            p1 & _WORD,
            (p0 >> _SHIFT) ^ c3 ^ k1,
            p0 & _WORD,
        )
        k0, k1 = (k0 + _W0) & _WORD, (k1 + _W1) & _WORD
    return c0, c1, c2, c3


@compiled
def _blocks_of_row(words, low, high, step, k0, k1):
    """Write the random words of a row's blocks of units, a block in each column.

    As `philox`, written out so that the compiler sees that all words are below 2^32 and
    works on several blocks at once.
    """
    for block in range(words.shape[1]):
        c0, c1, c2, c3 = (
            np.uint64(block) & _WORD,
            low & _WORD,
            high & _WORD,
            step & _WORD,
        )
        a0, a1 = k0 & _WORD, k1 & _WORD
        for _ in range(_ROUNDS):
            p0, p1 = _M0 * c0, _M1 * c2
            c0, c1 = (p1 >> _SHIFT) ^ c1 ^ a0, p1 & _WORD
            c2, c3 = (p0 >> _SHIFT) ^ c3 ^ a1, p0 & _WORD
            a0, a1 = (a0 + _W0) & _WORD, (a1 + _W1) & _WORD
        words[0, block] = c0
        words[1, block] = c1
        words[2, block] = c2
        words[3, block] = c3


@compiled
def dropout_mask(
    mask: Array, rows: Array, stream: Array, layer: int, threshold: int, scale: float
) -> None:
    """Write what the units of a layer are multiplied by."""
    zero, kept = mask.dtype.type(0), mask.dtype.type(scale)
    bar = np.uint64(threshold)
    words = np.empty((4, (mask.shape[1] + 3) // 4), np.uint32)
    for i in range(mask.shape[0]):
        number = np.uint64(rows[i])
        high = (number >> _SHIFT) | np.uint64(layer << 16)
        _blocks_of_row(words, number, high, stream[2], stream[0], stream[1])
        for j in range(mask.shape[1]):
            mask[i, j] = kept if np.uint64(words[j & 3, j >> 2]) >= bar else zero


@compiled
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
    """Pick rows of a CSR matrix and drop stored elements."""
    zero, kept = data.dtype.type(0), data.dtype.type(scale)
    bar = np.uint64(threshold)
    filled = 0
    out_indptr[0] = 0
    for i in range(rows.size):
        number = np.uint64(numbers[i])
        for k in range(indptr[rows[i]], indptr[rows[i] + 1]):
            unit = np.uint64(indices[k])
            words = philox(
                unit >> np.uint64(2),
                number & _WORD,
                number >> _SHIFT,
                stream[2] & _WORD,
                stream[0],
                stream[1],
            )
            lane = unit & np.uint64(3)
            word = words[0] if lane == np.uint64(0) else words[1]
            word = words[2] if lane == np.uint64(2) else word
            word = words[3] if lane == np.uint64(3) else word
            out_data[filled] = data[k] * (kept if word >= bar else zero)
            out_indices[filled] = indices[k]
            filled += 1
        out_indptr[i + 1] = filled


@compiled
def gather_known(
    z: Array,
    b: Array,
    y: Array,
    w: Array,
    known_z: Array,
    known_y: Array,
    known_w: Array,
) -> int:
    """Write down the numbers whose target is known."""
    n, width = 0, known_z.shape[1]
    for i in range(y.shape[0]):
        for j in range(y.shape[1]):
            t = y[i, j]
            if t != t:
                continue
            for k in range(width):
                known_z[n, k] = z[i, j * width + k] + b[j * width + k]
            known_y[n, 0] = t
            if w.size:
                known_w[n] = w[i]
            n += 1
    return n


@compiled
def scatter_known(known: Array, y: Array, z: Array, grad_b: Array) -> None:
    """Write the gradient of the known targets to its places."""
    n, width = 0, known.shape[1]
    grad_b[:] = 0
    for i in range(y.shape[0]):
        for j in range(y.shape[1]):
            if y[i, j] == y[i, j]:
                for k in range(j * width, (j + 1) * width):
                    z[i, k] = known[n, k - j * width]
                    grad_b[k] += z[i, k]
                n += 1
            else:
                z[i, j * width : (j + 1) * width] = 0
