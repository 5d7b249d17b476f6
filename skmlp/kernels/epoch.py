"""Whole steps as one compiled function, which several threads can run together.

In the steps of a small network the calls from Python cost as much as what they compute.
Here a run of minibatches, with all products, activations, losses and updates, is one
call. The kernels are the same ones: they are handed over by their addresses, so that
activations, losses and solvers need not be compiled together.

Each thread calls it with the same arguments but the last, its own number; together they
do what one would do alone. See `skmlp.kernels.sync`.

There are no slices here: numba counts the users of a slice's memory, for all threads in
one place, which then goes from core to core.
"""

# mypy cannot see what numba infers.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc"
# mypy: disable-error-code="call-arg, var-annotated, unreachable"

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import typeof, types

from skmlp.kernels import compiled as compiled_kernels
from skmlp.kernels.atomics import load, pause, replace, store, yield_core
from skmlp.kernels.blas import address_of_gemm, blas_product
from skmlp.kernels.gemm import AB, ABT, ATB, tiled_product
from skmlp.kernels.jit import compiled, inner
from skmlp.kernels.pointers import (
    address_of,
    call,
    call_for_number,
    far_line,
    far_table,
    line,
    part_for,
    part_of,
    table,
)
from skmlp.kernels.solvers import DIVISOR
from skmlp.kernels.sync import COUNTERS, DONE, LOOKS

Array = np.ndarray[Any, np.dtype[Any]]

#: What each part of a run adds up: the loss, the squared norm of the penalised
#: parameters; and the squared norm of its last step's gradient.
LOSS, NORM, GRADIENT = range(3)

#: Places of the kernels' addresses; `_DERIVING` is 0 where the derivative follows from
#: the activation's own value, `_GEMM` where the product asks no BLAS.
_PRODUCT, _FORWARD, _DERIVING, _BACKWARD, _LOSS_OF, _SOLVER, _GEMM = range(7)

#: What each part has for itself: its rows of each layer, the gradient by them, the
#: derivatives; a matrix; its rows of a minibatch.
_LAYERS, _DELTAS, _DERIVED, _SCRATCH, _ROWS = range(5)


@inner
def _gradient(kernels, units, settings, params, total, room, x, y, w):
    """Write the gradient of some rows' loss to `total`; return the loss."""
    layers, deltas, derivatives = room[_LAYERS], room[_DELTAS], room[_DERIVED]
    product, gemm, scratch = kernels[_PRODUCT], kernels[_GEMM], room[_SCRATCH]
    derives, rows = kernels[_DERIVING] != 0, x.shape[0]
    last, n_weights, width = units.size - 2, 0, 0
    for i in range(last + 1):
        n_weights += units[i] * units[i + 1]
        width += units[i + 1]
    most = layers.size // width
    # Forward: `a` is what a layer is given, `z` what it gives.
    a, z = x, x
    bias, weight, place = n_weights, 0, 0
    for i in range(last + 1):
        n, m = units[i], units[i + 1]
        W = table(params, weight, n, m)
        z = table(layers, place, rows, m)
        call(product, (gemm, a, W, z, AB, scratch))
        if i < last:
            b = line(params, bias, m)
            if derives:
                d = table(derivatives, place, rows, m)
                call(kernels[_DERIVING], (z, b, d))
            else:
                call(kernels[_FORWARD], (z, b))
            weight += n * m
            bias += m
            place += most * m
        a = z
    m = units[last + 1]
    b, grad_b = line(params, bias, m), line(total, bias, m)
    loss = call_for_number(kernels[_LOSS_OF], (z, b, y, w, grad_b, settings))
    # Backward: `delta` is the gradient by what the layer gave before its bias.
    delta = z
    for i in range(last, 0, -1):
        n, m = units[i], units[i + 1]
        place -= most * n
        bias -= n
        seen = table(layers, place, rows, n)
        below = table(deltas, place, rows, n)
        out = table(total, weight, n, m)
        call(product, (gemm, seen, delta, out, ATB, scratch))
        W = table(params, weight, n, m)
        call(product, (gemm, delta, W, below, ABT, scratch))
        derived = seen
        if derives:
            derived = table(derivatives, place, rows, n)
        grad_b = line(total, bias, n)
        call(kernels[_BACKWARD], (derived, below, grad_b))
        delta = below
        weight -= units[i - 1] * n
    out = table(total, 0, units[0], units[1])
    call(product, (gemm, x, delta, out, ATB, scratch))
    return loss


@compiled
def _run(
    kernels,
    units,
    settings,
    loss_settings,
    state,
    room,
    counters,
    X,
    taken,
    y,
    w,
    ends,
    numbers,
    sums,
    phase,
    me,
):
    """Do the minibatches between the ends. See `skmlp.steps.CompiledSteps`.

    A step has two phases: the gradient, of which a part computes some rows' share; then
    the sum of the shares and the solver's step, where a part has a segment.
    """
    params, totals, firsts, seconds = state
    n_parts, size, n_weights = sums.shape[0], params.size, 0
    for i in range(units.size - 1):
        n_weights += units[i] * units[i + 1]
    stride = totals.size // n_parts
    for number in range(ends.size - 1):
        begin, n_rows = ends[number], ends[number + 1] - ends[number]
        for moving in range(2):
            phase += 1
            for turn in range(n_parts):
                part = (me + turn) % n_parts
                where = counters + COUNTERS * part
                if n_parts > 1 and (
                    load(where) != phase - 1 or not replace(where, phase - 1, phase)
                ):
                    continue
                if not moving:
                    start = begin + part * n_rows // n_parts
                    rows = begin + (part + 1) * n_rows // n_parts - start
                    total, n = line(totals, part * stride, size), units[0]
                    if rows:
                        own = (
                            part_for(room[_LAYERS], part, n_parts),
                            part_for(room[_DELTAS], part, n_parts),
                            part_for(room[_DERIVED], part, n_parts),
                            part_for(room[_SCRATCH], part, n_parts),
                        )
                        x = far_table(X, start * n, params, rows, n)
                        if taken.size:
                            copies = part_for(room[_ROWS], part, n_parts)
                            x = table(copies, 0, rows, n)
                            for i in range(rows):
                                row = far_line(X, taken[start + i] * n, params, n)
                                copy = line(copies, i * n, n)
                                for j in range(n):
                                    copy[j] = row[j]
                        given = line(w, start, rows) if w.size else w
                        there = part_of(y, start, rows)
                        sums[part, LOSS] += _gradient(
                            kernels,
                            units,
                            loss_settings,
                            params,
                            total,
                            own,
                            x,
                            there,
                            given,
                        )
                    else:
                        for j in range(size):
                            total[j] = 0
                else:
                    start = part * size // n_parts
                    length = (part + 1) * size // n_parts - start
                    total = line(totals, part * stride + start, length)
                    for other in range(1, n_parts):
                        other = (part + other) % n_parts
                        more = line(totals, other * stride + start, length)
                        for j in range(length):
                            total[j] += more[j]
                    if number == ends.size - 2:
                        square = total.dtype.type(0)
                        for j in range(length):
                            square += total[j] * total[j]
                        divisor = numbers[number, DIVISOR]
                        sums[part, GRADIENT] = square / (divisor * divisor)
                    penalised = n_weights - start
                    penalised = 0 if penalised < 0 else penalised
                    penalised = length if penalised > length else penalised
                    sums[part, NORM] += call_for_number(
                        kernels[_SOLVER],
                        (
                            line(params, start, length),
                            total,
                            line(firsts, start, length),
                            line(seconds, start, length),
                            penalised,
                            line(numbers, number * 4, 4),
                            settings,
                        ),
                    )
                if n_parts > 1:
                    store(where + DONE, phase)
            for part in range(n_parts if n_parts > 1 else 0):
                where = counters + COUNTERS * part + DONE
                n_looks = 0
                while load(where) < phase:
                    n_looks += 1
                    if n_looks % LOOKS:
                        pause()
                    else:
                        yield_core()


@functools.cache
def _signatures(dtype: str, y: Any) -> tuple[list[Any], Any]:
    """Of the kernels in the order of their addresses, and of `_run`."""
    real = types.float32 if dtype == "float32" else types.float64
    line, table = types.Array(real, 1, "C"), types.Array(real, 2, "C")
    doubles, rows = types.float64[::1], types.float64[:, ::1]
    index, double, nothing = types.intp, types.float64, types.void
    kernels = [
        nothing(index, table, table, table, index, line),
        nothing(table, line),
        nothing(table, line, table),
        nothing(table, table, line),
        double(table, line, y, line, line, doubles),
        double(*[line] * 4, index, doubles, doubles),
    ]
    numbers, four, five = index[::1], types.UniTuple(line, 4), types.UniTuple(line, 5)
    before = numbers, numbers, doubles, doubles, four, five, index
    chunk = index, numbers, y, line, numbers, rows, rows
    return kernels, nothing(*before, *chunk, index, index)


@functools.cache
def runner(
    dtype: str, y: Any, activation: str, loss: str, solver: str, tiled: bool
) -> Callable[..., None]:
    """What runs the steps of a kind of networks.

    Parameters
    ----------
    dtype : {"float32", "float64"}
        Of the network.
    y : numba type
        Of the targets, as `type_of` gives it.
    activation, loss, solver : str
        Names of kernels.
    tiled : bool
        Whether products are those of `skmlp.kernels.gemm`; or the BLAS's.

    Returns
    -------
    callable
        `_run` without its first argument.
    """
    deriving = compiled_kernels.DERIVING.get(activation)
    kernels = (
        tiled_product if tiled else blas_product,
        compiled_kernels.FORWARD[activation],
        deriving,
        compiled_kernels.scaled_backward
        if deriving
        else compiled_kernels.BACKWARD[activation],
        compiled_kernels.LOSS[loss],
        compiled_kernels.STEP[solver],
    )
    signatures, run = _signatures(dtype, y)
    addresses = [
        address_of(*both) if both[0] else 0
        for both in zip(kernels, signatures, strict=True)
    ]
    addresses.append(0 if tiled else address_of_gemm(dtype))
    _run.compile(run)
    return functools.partial(_run, np.array(addresses, np.intp))


def type_of(y: Array) -> Any:
    """The numba type of some targets."""
    return typeof(y)
