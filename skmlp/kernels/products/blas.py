"""Matrix products of the BLAS in compiled code, without a call from Python.

They are those of SciPy's documented interface for Cython. Its matrices are in columns:
ours, in rows, are their transposes, and ``(A B)^T = B^T A^T``.
"""

# mypy does not know what numba hands to an intrinsic.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
# mypy: disable-error-code="call-arg"

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import get_cython_function_address, intrinsic
from numba.np.arrayobj import make_array

from skmlp.arrays import Array
from skmlp.kernels.jit import compiled
from skmlp.kernels.products.gemm import AB, ABT, ATB

#: The letters by which the BLAS is told to transpose a matrix, or not.
_PLAIN, _TRANSPOSED = ord("N"), ord("T")


def address_of_gemm(dtype: str) -> int:
    """Where the product of this process's SciPy is; another one in each process."""
    name = "sgemm" if dtype == "float32" else "dgemm"
    address: int = get_cython_function_address("scipy.linalg.cython_blas", name)
    return address


def dot_of(dtype: str) -> Callable[[Array, Array, Array], None]:
    """Make ``dot(A, B, out)``, which numpy's BLAS has no part in.

    The threads of an OpenBLAS spin for some milliseconds after each product, and take
    the cores from others that compute.
    """
    address, nothing = address_of_gemm(dtype), np.empty(0, dtype)

    def dot(A: Array, B: Array, out: Array) -> None:
        # Some are slices of what the user has given.
        A = np.require(A, requirements=["C", "A", "W"])
        blas_product(address, A, B, out, AB, nothing)

    return dot


@intrinsic
def _gemm(typingctx, address, op_a, op_b, m, n, k, A, lda, B, ldb, C, ldc):
    """``C = op(A) op(B)``, all in columns: the arguments of BLAS, by their values."""
    index, number = types.intp, A.dtype
    signature = types.none(*[index] * 6, A, index, B, index, C, index)

    def codegen(context, builder, signature, arguments):
        real = context.get_data_type(number)
        letter, whole = ir.IntType(8), ir.IntType(32)

        def place(kind, value):
            """Room on the stack, for arguments go by address."""
            with builder.goto_entry_block():
                room = builder.alloca(kind)
            builder.store(value, room)
            return room

        def shortened(value, kind):
            return place(kind, builder.trunc(value, kind))

        def data(position):
            kind = signature.args[position]
            return make_array(kind)(context, builder, arguments[position]).data

        one, zero = (place(real, ir.Constant(real, x)) for x in (1.0, 0.0))
        ops = [shortened(value, letter) for value in arguments[1:3]]
        sizes = [shortened(value, whole) for value in arguments[3:6]]
        steps = [shortened(arguments[position], whole) for position in (7, 9, 11)]
        given = [*ops, *sizes, one, data(6), steps[0], data(8), steps[1]]
        given += [zero, data(10), steps[2]]
        kind = ir.FunctionType(ir.VoidType(), [value.type for value in given])
        builder.call(builder.inttoptr(arguments[0], kind.as_pointer()), given)
        return context.get_dummy_value()

    return signature, codegen


@compiled
def blas_product(
    gemm: int, A: Array, B: Array, out: Array, kind: int, scratch: Array
) -> None:
    """Write ``A @ B``, ``A.T @ B`` or ``A @ B.T`` to `out`; all are C-contiguous.

    `gemm` is the address of the BLAS's product for their dtype.
    """
    op_a = _TRANSPOSED if kind == ATB else _PLAIN
    op_b = _TRANSPOSED if kind == ABT else _PLAIN
    a, b, c = A.shape[1], B.shape[1], out.shape[1]
    inside = A.shape[0] if kind == ATB else a
    _gemm(gemm, op_b, op_a, c, out.shape[0], inside, B, b, A, a, out, c)
