"""What is left out: units by dropout, and numbers whose target is missing.

The masks have the same bits as those of `skmlp.kernels.reference`.
"""

# mypy cannot see what numba infers.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
# mypy: disable-error-code="call-arg, var-annotated, unreachable"

from __future__ import annotations

import numpy as np

from skmlp.arrays import Array
from skmlp.kernels.jit import compiled
from skmlp.kernels.pointers import call_for_number, line, table

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
def multiply(a: Array, b: Array, out: Array) -> None:
    """Write the product of each pair of numbers."""
    for i in range(a.shape[0]):
        for j in range(a.shape[1]):
            out[i, j] = a[i, j] * b[i, j]


@compiled
def drop(
    a: Array,
    mask: Array,
    out: Array,
    rows: Array,
    stream: Array,
    layer: int,
    threshold: int,
    scale: float,
) -> None:
    """Write the mask of a layer, and to `out` what is left of its units."""
    dropout_mask(mask, rows, stream, layer, threshold, scale)
    multiply(a, mask, out)


@compiled
def loss_of_known(
    loss: int,
    z: Array,
    b: Array,
    y: Array,
    w: Array,
    grad_b: Array,
    settings: Array,
    room: Array,
) -> float:
    """Compute a loss and its gradient of the targets that are not NaN.

    The kernel at the address `loss` is handed the known numbers one below the other, as
    rows of one output: each gets the value and the gradient that it has in any other
    place. Where all are known, nothing is moved. `room` has ``3 * z.size + 2 * b.size``
    numbers.
    """
    size, width = y.size, z.size // y.size
    known_z, known_y = table(room, 0, size, width), table(room, z.size, size, 1)
    known_w = line(room, z.size + size, size if w.size else 0)
    n = 0
    for i in range(y.shape[0]):
        for j in range(y.shape[1]):
            if y[i, j] == y[i, j]:
                for k in range(width):
                    known_z[n, k] = z[i, j * width + k] + b[j * width + k]
                known_y[n, 0] = y[i, j]
                if w.size:
                    known_w[n] = w[i]
                n += 1
    if n == size:
        return call_for_number(loss, (z, b, y, w, grad_b, settings))
    value = 0.0
    if n:
        rest = z.size + 2 * size
        no_bias, grad = line(room, rest, width), line(room, rest + width, width)
        no_bias[:] = 0
        z_of, y_of = table(room, 0, n, width), table(room, z.size, n, 1)
        w_of = line(known_w, 0, n if w.size else 0)
        value = call_for_number(loss, (z_of, no_bias, y_of, w_of, grad, settings))
    n = 0
    grad_b[:] = 0
    for i in range(y.shape[0]):
        for j in range(y.shape[1]):
            known = y[i, j] == y[i, j]
            for k in range(width):
                g = known_z[n, k] if known else z.dtype.type(0)
                z[i, j * width + k] = g
                grad_b[j * width + k] += g
            n += 1 if known else 0
    return value
