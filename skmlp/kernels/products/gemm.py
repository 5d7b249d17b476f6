"""Products of small matrices, for steps that run as one compiled function.

A call of the BLAS costs some tenths of a microsecond from Python, and for small
matrices about as much again inside; its threads then wait for each other. These loops
cover the result with tiles (`skmlp.kernels.products.tiles`). Each number is one sum in
the order of the inner dimension, whatever the tiles.
"""

# mypy cannot see what numba infers.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
# mypy: disable-error-code="call-arg, var-annotated, unreachable"

from __future__ import annotations

from skmlp.arrays import Array
from skmlp.kernels.jit import compiled, inner
from skmlp.kernels.pointers import pointer, table
from skmlp.kernels.products.tiles import VECTOR, tile

#: What a product does with its factors: ``A @ B``, ``A.T @ B`` or ``A @ B.T``.
AB, ATB, ABT = range(3)

# Eight sums at once hide how long an addition takes.
_wide = tile(4, 2, VECTOR)
_whole = tile(8, 1, VECTOR)
_half = tile(8, 1, VECTOR // 2)
_quarter = tile(8, 1, VECTOR // 4)


@compiled
def tiled_product(
    gemm: int, A: Array, B: Array, out: Array, kind: int, scratch: Array
) -> None:
    """Write ``A @ B``, ``A.T @ B`` or ``A @ B.T`` to `out`.

    All are C-contiguous and share no memory. `scratch` has room for `B`; `gemm` is what
    `skmlp.kernels.products.blas.blas_product` needs.
    """
    if kind == ABT:
        n, m = B.shape
        turned = table(scratch, 0, m, n)
        for j in range(n):
            for k in range(m):
                turned[k, j] = B[j, k]
        B = turned
    transposed = kind == ATB
    # A[i, k] stands at i * a_row + k * a_step.
    if transposed:
        a_row, a_step, n = 1, A.shape[1], A.shape[0]
    else:
        a_row, a_step, n = A.shape[1], 1, A.shape[1]
    rows, columns = out.shape
    if columns == 1:
        _with_vector(A, B, out, transposed)
        return
    whole = VECTOR // out.itemsize
    j = 0
    while j < columns:
        left = columns - j
        b = pointer(B, j)
        width = whole
        if left >= 2 * whole:
            width = 2 * whole
        elif left <= whole // 4:
            width = whole // 4
        elif left <= whole // 2:
            width = whole // 2
        i = 0
        while i < rows:
            a, c = pointer(A, i * a_row), pointer(out, i * columns + j)
            high = rows - i
            if width == 2 * whole:
                _wide(a, a_row, a_step, b, columns, c, columns, n, high, left)
                i += 4
            else:
                if width == whole:
                    _whole(a, a_row, a_step, b, columns, c, columns, n, high, left)
                elif width == whole // 2:
                    _half(a, a_row, a_step, b, columns, c, columns, n, high, left)
                else:
                    _quarter(a, a_row, a_step, b, columns, c, columns, n, high, left)
                i += 8
        j += width


@inner
def _with_vector(A: Array, B: Array, out: Array, transposed: bool) -> None:
    """`product` of one column: the vectors run along the rows of A."""
    if transposed:
        for i in range(A.shape[1]):
            out[i, 0] = 0
        for k in range(A.shape[0]):
            for i in range(A.shape[1]):
                out[i, 0] += A[k, i] * B[k, 0]
        return
    for i in range(A.shape[0]):
        total = out.dtype.type(0)
        for k in range(A.shape[1]):
            total += A[i, k] * B[k, 0]
        out[i, 0] = total
