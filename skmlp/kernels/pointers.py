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


def _part(context, builder, kind, data, shape):
    """The array of a shape that begins where `data` points."""
    size = context.get_abi_sizeof(context.get_data_type(kind.dtype))
    strides = [context.get_constant(types.intp, size)]
    for length in shape[:0:-1]:
        strides.insert(0, builder.mul(strides[0], length))
    part = make_array(kind)(context, builder)
    populate_array(
        part,
        data=data,
        shape=shape,
        strides=strides,
        itemsize=strides[-1],
        meminfo=None,
    )
    return part._getvalue()


def _near(context, builder, signature, arguments):
    """A part of the first argument, from the second one's place on."""
    array, offset, *shape = arguments
    data = _place(context, builder, signature.args[0], array, offset)
    return _part(context, builder, signature.return_type, data, shape)


def _far(context, builder, signature, arguments):
    """A part of what lies at the address that is the first argument."""
    address, offset, _, *shape = arguments
    kind = signature.return_type
    first = context.get_data_type(kind.dtype).as_pointer()
    data = builder.gep(builder.inttoptr(address, first), [offset])
    return _part(context, builder, kind, data, shape)


@intrinsic
def line(typingctx, array, start, size):
    """A part of a C-contiguous array, which must outlive it, as a line."""
    kind = types.Array(array.dtype, 1, "C")
    return kind(array, types.intp, types.intp), _near


@intrinsic
def table(typingctx, array, start, rows, columns):
    """A part of a C-contiguous array, which must outlive it, as a table."""
    kind = types.Array(array.dtype, 2, "C")
    return kind(array, types.intp, types.intp, types.intp), _near


@intrinsic
def part_for(typingctx, array, part, n_parts):
    """One of so many equal parts of a C-contiguous line, which must outlive it."""
    kind = types.Array(array.dtype, 1, "C")

    def codegen(context, builder, signature, arguments):
        array, part, n_parts = arguments
        whole = make_array(signature.args[0])(context, builder, array)
        size = builder.sdiv(builder.extract_value(whole.shape, 0), n_parts)
        data = builder.gep(whole.data, [builder.mul(part, size)])
        return _part(context, builder, kind, data, [size])

    return kind(array, types.intp, types.intp), codegen


@intrinsic
def part_of(typingctx, array, start, size):
    """Some entries along the first axis of a C-contiguous array, which outlives it."""

    def codegen(context, builder, signature, arguments):
        kind = signature.return_type
        given = make_array(kind)(context, builder, arguments[0])
        lengths = [builder.extract_value(given.shape, k) for k in range(1, kind.ndim)]
        offset = arguments[1]
        for length in lengths:
            offset = builder.mul(offset, length)
        data = builder.gep(given.data, [offset])
        return _part(context, builder, kind, data, [arguments[2], *lengths])

    return array(array, types.intp, types.intp), codegen


@intrinsic
def far_line(typingctx, address, start, like, size):
    """A line of numbers of the dtype of `like`, of which the address is known."""
    kind = types.Array(like.dtype, 1, "C")
    return kind(types.intp, types.intp, like, types.intp), _far


@intrinsic
def far_table(typingctx, address, start, like, rows, columns):
    """The same as a table."""
    kind = types.Array(like.dtype, 2, "C")
    return kind(types.intp, types.intp, like, types.intp, types.intp), _far


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
