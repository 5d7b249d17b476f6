"""Whole steps of small networks as one compiled function.

In the steps of a small network the calls from Python cost as much as what they compute.
Here a run of minibatches, with all products, activations, losses and updates, is one
call. The kernels are the same ones: they are handed over as functions, so that
activations, losses and solvers need not be compiled together.
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
from skmlp.kernels.compiled_products import product
from skmlp.kernels.compiled_updates import DIVISOR, compiled
from skmlp.kernels.pointers import address_of, call, call_for_number, line, table

Array = np.ndarray[Any, np.dtype[Any]]

#: What a run adds up: the loss, the squared norm of the penalised parameters; and the
#: squared norm of its last step's gradient.
LOSS, NORM, GRADIENT = range(3)


#: Places of the kernels' addresses; `_DERIVING` is 0 where the derivative follows from
#: the activation's own value.
_PRODUCT, _FORWARD, _DERIVING, _BACKWARD, _LOSS_OF, _SOLVER = range(6)


@compiled
def _run(
    kernels,
    units,
    settings,
    state,
    room,
    X,
    y,
    w,
    ends,
    numbers,
    sums,
):
    """Do the minibatches between the ends. See `skmlp.steps.CompiledSteps`."""
    params, total, first, second = state
    layers, deltas, derivatives, scratch = room
    derives = kernels[_DERIVING] != 0
    last, n_weights, width = units.size - 2, 0, 0
    for i in range(last + 1):
        n_weights += units[i] * units[i + 1]
        width += units[i + 1]
    most = layers.size // width
    no_scratch = table(total, 0, 0, 1)
    for number in range(ends.size - 1):
        start, stop = ends[number], ends[number + 1]
        rows = stop - start
        x = table(X, start * units[0], rows, units[0])
        # Forward: `a` is what a layer is given, `z` what it gives.
        a, z = x, x
        bias, weight, place = n_weights, 0, 0
        for i in range(last + 1):
            n, m = units[i], units[i + 1]
            W = table(params, weight, n, m)
            z = table(layers, place, rows, m)
            call(kernels[_PRODUCT], (a, W, z, False))
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
        given = line(w, start, rows) if w.size else w
        sums[LOSS] += call_for_number(
            kernels[_LOSS_OF], (z, b, y[start:stop], given, grad_b, no_scratch)
        )
        # Backward: `delta` is the gradient by what the layer gave before its bias.
        delta = z
        for i in range(last, 0, -1):
            n, m = units[i], units[i + 1]
            place -= most * n
            bias -= n
            seen = table(layers, place, rows, n)
            below = table(deltas, place, rows, n)
            out = table(total, weight, n, m)
            call(kernels[_PRODUCT], (seen, delta, out, True))
            W = table(params, weight, n, m)
            W_T = table(scratch, 0, m, n)
            for j in range(n):
                for k in range(m):
                    W_T[k, j] = W[j, k]
            call(kernels[_PRODUCT], (delta, W_T, below, False))
            derived = seen
            if derives:
                derived = table(derivatives, place, rows, n)
            grad_b = line(total, bias, n)
            call(kernels[_BACKWARD], (derived, below, grad_b, no_scratch))
            delta = below
            weight -= units[i - 1] * n
        out = table(total, 0, units[0], units[1])
        call(kernels[_PRODUCT], (x, delta, out, True))
        if number == ends.size - 2:
            square = total.dtype.type(0)
            for j in range(total.size):
                square += total[j] * total[j]
            divisor = numbers[number, DIVISOR]
            sums[GRADIENT] = square / (divisor * divisor)
        sums[NORM] += call_for_number(
            kernels[_SOLVER],
            (
                params,
                total,
                first,
                second,
                total[:0],
                n_weights,
                numbers[number],
                settings,
            ),
        )


@functools.cache
def _signatures(dtype: str, y: Any) -> tuple[list[Any], Any]:
    """Of the kernels in the order of their addresses, and of `_run`."""
    real = types.float32 if dtype == "float32" else types.float64
    line, table = types.Array(real, 1, "C"), types.Array(real, 2, "C")
    doubles, rows = types.float64[::1], types.float64[:, ::1]
    index, double, nothing = types.intp, types.float64, types.void
    kernels = [
        nothing(table, table, table, types.boolean),
        nothing(table, line),
        nothing(table, line, table),
        nothing(table, table, line, table),
        double(table, line, y, line, line, table),
        double(*[line] * 5, index, doubles, doubles),
    ]
    ends, four = index[::1], types.UniTuple(line, 4)
    rest = four, four, table, y, line, ends, rows, doubles
    return kernels, nothing(ends, ends, doubles, *rest)


@functools.cache
def runner(
    dtype: str, y: Any, activation: str, loss: str, solver: str
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

    Returns
    -------
    callable
        `_run` without its first argument.
    """
    deriving = compiled_kernels.DERIVING.get(activation)
    kernels = (
        product,
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
    _run.compile(run)
    return functools.partial(_run, np.array(addresses, np.intp))


def type_of(y: Array) -> Any:
    """The numba type of some targets."""
    return typeof(y)
