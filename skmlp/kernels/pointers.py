"""Parts of arrays and functions by their addresses, for compiled kernels.

They are what numba's slices, reshapes and first-class functions do, without checks and
without a function to compile for each kind of arguments: a third of the time it takes
to compile whole steps.
"""

# mypy does not know what numba hands to an intrinsic.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numba.np.arrayobj import make_array, populate_array


def _place(context, builder, kind, array, offset):
    """Address a number of a C-contiguous array, by its place in the flat array."""
    return builder.gep(make_array(kind)(context, builder, array).data, [offset])


@intrinsic
def pointer(typingctx, array, offset):
    """Point to a number of a C-contiguous array, by its place in the flat array."""
    signature = types.CPointer(array.dtype)(array, types.intp)

    def codegen(context, builder, signature, arguments):
        return _place(context, builder, signature.args[0], *arguments)

    return signature, codegen


def _part(context, builder, signature, arguments):
    """The array of the last arguments' shape that begins at a place of another."""
    array, offset, *shape = arguments
    kind = signature.return_type
    size = context.get_abi_sizeof(context.get_data_type(kind.dtype))
    strides = [context.get_constant(types.intp, size)]
    for length in shape[:0:-1]:
        strides.insert(0, builder.mul(strides[0], length))
    part = make_array(kind)(context, builder)
    populate_array(
        part,
        data=_place(context, builder, signature.args[0], array, offset),
        shape=shape,
        strides=strides,
        itemsize=strides[-1],
        meminfo=None,
    )
    return part._getvalue()


@intrinsic
def line(typingctx, array, start, size):
    """A part of a C-contiguous array, which must outlive it, as a line."""
    kind = types.Array(array.dtype, 1, "C")
    return kind(array, types.intp, types.intp), _part


@intrinsic
def table(typingctx, array, start, rows, columns):
    """A part of a C-contiguous array, which must outlive it, as a table."""
    kind = types.Array(array.dtype, 2, "C")
    return kind(array, types.intp, types.intp, types.intp), _part


def _calling(result: Any) -> Callable[..., Any]:
    """Make what calls functions that give a type of result."""

    @intrinsic
    def call(typingctx, address, arguments):
        kinds = [types.unliteral(kind) for kind in arguments]

        def codegen(context, builder, signature, values):
            given = [context.get_value_type(kind) for kind in kinds]
            function = ir.FunctionType(context.get_value_type(result), given)
            callee = builder.inttoptr(values[0], function.as_pointer())
            parts = [builder.extract_value(values[1], i) for i in range(len(given))]
            value = builder.call(callee, parts)
            return context.get_dummy_value() if result == types.none else value

        return result(types.intp, types.Tuple(kinds)), codegen

    function: Callable[..., Any] = call
    return function


#: ``f(address, arguments)`` calls a compiled function at an address of `address_of`,
#: for whose signature the tuple must have exactly the types.
call, call_for_number = _calling(types.none), _calling(types.float64)


def address_of(kernel: Any, signature: Any) -> int:
    """Compile a function for a signature and tell where C code can call it.

    It must not raise: there is nobody to hear of it.
    """
    compiled = kernel.get_compile_result(signature)
    name = compiled.fndesc.llvm_cfunc_wrapper_name
    address: int = compiled.library.get_pointer_to_function(name)
    return address
