"""Tiles of a matrix product, written down for the compiler instruction by instruction.

A tile is a block of the result, some rows high and one or two vectors wide, whose sums
stay in registers while both factors are read once. numba has no vectors of its own, so
the loop is given to LLVM as it shall be; on processors whose vectors are shorter, LLVM
cuts them. This is the innermost loop of Goto and van de Geijn, "Anatomy of
high-performance matrix multiplication", ACM TOMS 34, 2008; matrices that need its outer
loops are left to the BLAS.
"""

# mypy does not know what numba hands to an intrinsic.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import binding, ir
from numba import types
from numba.extending import intrinsic

#: Whether this processor has vectors of 64 bytes.
LONG_VECTORS = bool(binding.get_host_cpu_features().get("avx512f"))
#: Bytes of its longest vectors.
VECTOR = 64 if LONG_VECTORS else 32

_INDEX = ir.IntType(64)
_INT32 = ir.IntType(32)


def tile(rows: int, vectors: int, n_bytes: int) -> Callable[..., None]:
    """Make the intrinsic that computes a tile of `rows` by vectors of `n_bytes`.

    ``f(a, a_row, a_step, b, b_step, c, c_row, n, height, width)`` takes pointers to the
    first numbers and strides in numbers: ``c[i, j] = sum over k < n of a[i * a_row + k
    * a_step] * b[k * b_step + j]``, for ``i < height`` and ``j < width``, in the order
    of k. `n` and `height` are at least 1. A tile of several vectors is as wide as they
    are, whatever `width` says.
    """

    @intrinsic
    def compute(typingctx, a, a_row, a_step, b, b_step, c, c_row, n, height, width):
        index = types.intp
        signature = types.void(a, index, index, b, index, c, *[index] * 4)
        size = a.dtype.bitwidth // 8

        def codegen(context, builder, signature, arguments):
            _Tile(builder, rows, vectors, size, n_bytes // size).emit(*arguments)
            return context.get_dummy_value()

        return signature, codegen

    function: Callable[..., None] = compute
    return function


class _Tile:
    """The instructions of one tile."""

    def __init__(
        self, builder: Any, rows: int, vectors: int, size: int, lanes: int
    ) -> None:
        self._builder, self._rows, self._vectors = builder, range(rows), range(vectors)
        self._size, self._lanes = size, lanes
        number = ir.FloatType() if size == 4 else ir.DoubleType()
        self._vector = ir.VectorType(number, lanes)
        self._mask: Any = None

    def _intrinsic(self, name: str, result: Any, kinds: list[Any]) -> Any:
        """A function of LLVM's for the vectors of this tile, by its first words."""
        module = self._builder.module
        kind = f"v{self._lanes}f{8 * self._size}"
        if name.startswith("llvm.masked"):
            # Until pointers lost their types, names said to what they pointed.
            typed = "*" in str(self._vector.as_pointer())
            kind += f".p0{kind}" if typed else ".p0"
        full = f"{name}.{kind}"
        known = module.globals.get(full)
        return known or ir.Function(module, ir.FunctionType(result, kinds), full)

    def _at(self, start: Any, vector: int) -> Any:
        """Point to a vector that begins so many vectors after a number."""
        place = self._builder.gep(start, [_INDEX(vector * self._lanes)])
        return self._builder.bitcast(place, self._vector.as_pointer())

    def _load(self, start: Any, vector: int) -> Any:
        place = self._at(start, vector)
        if self._mask is None:
            return self._builder.load(place, align=self._size)
        zero = ir.Constant(self._vector, None)
        kinds = [place.type, _INT32, self._mask.type, self._vector]
        load = self._intrinsic("llvm.masked.load", self._vector, kinds)
        arguments = [place, _INT32(self._size), self._mask, zero]
        return self._builder.call(load, arguments)

    def _store(self, value: Any, start: Any, vector: int) -> None:
        place = self._at(start, vector)
        if self._mask is None:
            self._builder.store(value, place, align=self._size)
            return
        kinds = [self._vector, place.type, _INT32, self._mask.type]
        store = self._intrinsic("llvm.masked.store", ir.VoidType(), kinds)
        arguments = [value, place, _INT32(self._size), self._mask]
        self._builder.call(store, arguments)

    def _everywhere(self, number: Any, vector: Any) -> Any:
        """A vector of one number."""
        builder = self._builder
        nothing = ir.Constant(vector, ir.Undefined)
        first = ir.Constant(ir.VectorType(_INT32, self._lanes), None)
        one = builder.insert_element(nothing, number, _INT32(0))
        return builder.shuffle_vector(one, nothing, first)

    def emit(
        self,
        a: Any,
        a_row: Any,
        a_step: Any,
        b: Any,
        b_step: Any,
        c: Any,
        c_row: Any,
        n: Any,
        height: Any,
        width: Any,
    ) -> None:
        """Write the loop over k and store the sums. See `tile`."""
        builder, size = self._builder, self._size
        vector = self._vector
        zero = ir.Constant(vector, None)
        if len(self._vectors) == 1:
            numbers = ir.VectorType(_INDEX, self._lanes)
            lanes = ir.Constant(numbers, list(range(self._lanes)))
            most = self._everywhere(width, numbers)
            self._mask = builder.icmp_signed("<", lanes, most)
        # Rows that are not there are the last one once more.
        last = builder.sub(height, _INDEX(1))
        places = []
        for i in self._rows:
            there = builder.icmp_signed("<", _INDEX(i), height)
            places.append(builder.select(there, _INDEX(i), last))
        a_rows = [builder.mul(a_row, place) for place in places]
        c_rows = [builder.gep(c, [builder.mul(c_row, place)]) for place in places]
        before = builder.block
        loop, after = map(builder.append_basic_block, ("tile", "tile.end"))
        builder.branch(loop)
        builder.position_at_end(loop)
        k, a_now, b_now = (builder.phi(of.type) for of in (n, a, b))
        old = [[builder.phi(vector) for _ in self._vectors] for _ in self._rows]
        columns = [self._load(b_now, j) for j in self._vectors]
        fma = self._intrinsic("llvm.fmuladd", vector, [vector] * 3)
        new = []
        for i in self._rows:
            number = builder.load(builder.gep(a_now, [a_rows[i]]), align=size)
            factor = self._everywhere(number, vector)
            sums = zip(columns, old[i], strict=True)
            new.append([builder.call(fma, [factor, v, s]) for v, s in sums])
        following = builder.add(k, _INDEX(1))
        turns = [
            (k, _INDEX(0), following),
            (a_now, a, builder.gep(a_now, [a_step])),
            (b_now, b, builder.gep(b_now, [b_step])),
        ]
        for i in self._rows:
            turns += [(s, zero, t) for s, t in zip(old[i], new[i], strict=True)]
        for value, first, later in turns:
            value.add_incoming(first, before)
            value.add_incoming(later, loop)
        builder.cbranch(builder.icmp_signed("<", following, n), loop, after)
        builder.position_at_end(after)
        for i in self._rows:
            for j in self._vectors:
                self._store(new[i][j], c_rows[i], j)
