"""Instructions that threads need to agree with each other, for compiled kernels.

They are LLVM's, with its order of memory, which is C11's: it holds on processors that
move loads and stores about (ARM, POWER). Addresses are those of aligned int64.
"""

# mypy does not know what numba hands to an intrinsic.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

import os
from typing import Any

from llvmlite import binding, ir
from numba import extending, types

#: Its results take other arguments than the functions that make them.
intrinsic: Any = extending.intrinsic

_INT64 = ir.IntType(64)
_PROCESSOR = binding.get_process_triple().partition("-")[0]

#: Whether a thread can offer its core to others that wait for one.
CAN_YIELD = hasattr(os, "sched_yield")


def _pointer(builder, address):
    return builder.inttoptr(address, _INT64.as_pointer())


@intrinsic
def load(typingctx, address):
    """Read a number; what its writer did before is seen from here on."""

    def codegen(context, builder, signature, arguments):
        return builder.load_atomic(_pointer(builder, arguments[0]), "acquire", 8)

    return types.int64(types.intp), codegen


@intrinsic
def store(typingctx, address, value):
    """Write a number after all that was done before."""

    def codegen(context, builder, signature, arguments):
        where = _pointer(builder, arguments[0])
        builder.store_atomic(arguments[1], where, "release", 8)
        return context.get_dummy_value()

    return types.void(types.intp, types.int64), codegen


@intrinsic
def swap(typingctx, address, value):
    """Write a number after all that was done before; return what was there."""

    def codegen(context, builder, signature, arguments):
        where = _pointer(builder, arguments[0])
        return builder.atomic_rmw("xchg", where, arguments[1], "acq_rel")

    return types.int64(types.intp, types.int64), codegen


@intrinsic
def replace(typingctx, address, old, new):
    """Write a number if `old` is still there; return whether it was."""

    def codegen(context, builder, signature, arguments):
        where = _pointer(builder, arguments[0])
        found = builder.cmpxchg(where, *arguments[1:], "acq_rel", "acquire")
        return builder.extract_value(found, 1)

    return types.boolean(types.intp, types.int64, types.int64), codegen


@intrinsic
def pause(typingctx):
    """Tell the processor that this loop waits; nothing where it has no such word."""

    def codegen(context, builder, signature, arguments):
        name, values = {
            "x86_64": ("llvm.x86.sse2.pause", []),
            "aarch64": ("llvm.aarch64.hint", [ir.Constant(ir.IntType(32), 1)]),
        }.get(_PROCESSOR, ("", []))
        if name:
            module = builder.module
            kind = ir.FunctionType(ir.VoidType(), [value.type for value in values])
            known = module.globals.get(name)
            builder.call(known or ir.Function(module, kind, name), values)
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def yield_core(typingctx):
    """Offer the core to others, without the GIL; nothing where that can't be done."""

    def codegen(context, builder, signature, arguments):
        if CAN_YIELD:
            name, module = "sched_yield", builder.module
            kind = ir.FunctionType(ir.IntType(32), [])
            # Of the C library, which every process has.
            builder.call(
                module.globals.get(name) or ir.Function(module, kind, name), []
            )
        return context.get_dummy_value()

    return types.void(), codegen
