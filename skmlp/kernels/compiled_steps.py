"""Whole steps of small networks as one compiled function.

In the steps of a small network the calls from Python cost as much as what they compute.
Here a run of minibatches, with all products, activations, losses and updates, is one
call. The kernels are the same ones: they are handed over as functions, so that
activations, losses and solvers need not be compiled together.
"""

# mypy cannot see what numba infers.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc"
# mypy: disable-error-code="attr-defined, call-arg"

from __future__ import annotations

import functools
from collections.abc import Callable
from math import sqrt
from typing import Any

import numpy as np
from numba import carray, njit, typeof, types
from numba.experimental import structref

from skmlp.kernels import compiled as compiled_kernels
from skmlp.kernels.compiled_products import product
from skmlp.kernels.compiled_solvers import (
    adagrad_step,
    adamw_step,
    rmsprop_step,
)
from skmlp.kernels.compiled_updates import adam_step, compiled, sgd_step
from skmlp.kernels.tiles import pointer

Array = np.ndarray[Any, np.dtype[Any]]

#: Columns of `numbers`: what the sums are divided by, the rate, and the step's count.
DIVISOR, RATE, STEP = range(3)
#: What a run adds up: the loss, the squared norm of the penalised parameters; and the
#: squared norm of its last step's gradient.
LOSS, NORM, GRADIENT = range(3)


# -- the solvers, with one list of arguments -------------------------------------------


@compiled
def _sgd(params, total, first, second, n, alpha, numbers, settings):
    """`settings`: momentum, and whether it is Nesterov's."""
    return sgd_step(
        params,
        total,
        first,
        total[:0],
        n,
        alpha,
        numbers[DIVISOR],
        numbers[RATE],
        settings[0],
        settings[1] != 0.0,
    )


@compiled
def _corrected(rate, step, beta_1, beta_2):
    """The rate of Adam, whose moments begin at 0."""
    return rate * sqrt(1.0 - beta_2**step) / (1.0 - beta_1**step)


@compiled
def _adam(params, total, first, second, n, alpha, numbers, settings):
    """`settings`: both decays and epsilon."""
    return adam_step(
        params,
        total,
        first,
        second,
        total[:0],
        n,
        alpha,
        numbers[DIVISOR],
        _corrected(numbers[RATE], numbers[STEP], settings[0], settings[1]),
        settings[0],
        settings[1],
        settings[2],
    )


@compiled
def _adamw(params, total, first, second, n, alpha, numbers, settings):
    """`settings`: both decays, epsilon, and the decay of the weights."""
    return adamw_step(
        params,
        total,
        first,
        second,
        total[:0],
        n,
        alpha,
        numbers[DIVISOR],
        _corrected(numbers[RATE], numbers[STEP], settings[0], settings[1]),
        settings[0],
        settings[1],
        settings[2],
        numbers[RATE] * settings[3],
    )


@compiled
def _rmsprop(params, total, first, second, n, alpha, numbers, settings):
    """`settings`: the decay and epsilon."""
    return rmsprop_step(
        params,
        total,
        first,
        total[:0],
        n,
        alpha,
        numbers[DIVISOR],
        numbers[RATE],
        settings[0],
        settings[1],
    )


@compiled
def _adagrad(params, total, first, second, n, alpha, numbers, settings):
    """`settings`: epsilon."""
    return adagrad_step(
        params,
        total,
        first,
        total[:0],
        n,
        alpha,
        numbers[DIVISOR],
        numbers[RATE],
        settings[0],
    )


#: Those for which `skmlp.optim.transforms.Optimizer.in_runs` holds.
SOLVERS: dict[str, Callable[..., float]] = {
    "sgd": _sgd,
    "adam": _adam,
    "adamw": _adamw,
    "rmsprop": _rmsprop,
    "adagrad": _adagrad,
}


# -- the steps -------------------------------------------------------------------------


@compiled
def no_deriving(z, b, d):
    """Stand in where the derivative follows from the activation's own value."""


@structref.register
class _KernelsType(types.StructRef):
    """The numba type of `Kernels`."""

    def preprocess_fields(self, fields):
        """Take literal types for what they are."""
        return tuple((name, types.unliteral(of)) for name, of in fields)


class Kernels(structref.StructRefProxy):
    """The functions of a kind of networks, as one compiled object."""


_FIELDS = ("derives", "product", "forward", "deriving", "backward", "loss", "solver")
structref.define_proxy(Kernels, _KernelsType, list(_FIELDS))


@compiled
def _table(flat, start, rows, columns):
    """A part of a flat array as a matrix; slices take thrice as long to compile."""
    return carray(pointer(flat, start), (rows, columns))


@compiled
def _line(flat, start, size):
    """A part of a flat array."""
    return carray(pointer(flat, start), (size,))


def _make(derives, product, forward, deriving, backward, loss, solver):
    return Kernels(derives, product, forward, deriving, backward, loss, solver)


def _run(kernels, units, alpha, settings, state, room, X, y, w, ends, numbers, sums):
    """Do the minibatches between the ends. See `skmlp.steps.CompiledSteps`."""
    params, total, first, second = state
    layers, deltas, derivatives, scratch = room
    last, n_weights, width = units.size - 2, 0, 0
    for i in range(last + 1):
        n_weights += units[i] * units[i + 1]
        width += units[i + 1]
    most = layers.size // width
    no_scratch = _table(total, 0, 0, 1)
    for number in range(ends.size - 1):
        start, stop = ends[number], ends[number + 1]
        rows = stop - start
        x = _table(X, start * units[0], rows, units[0])
        # Forward: `a` is what a layer is given, `z` what it gives.
        a, z = x, x
        bias, weight, place = n_weights, 0, 0
        for i in range(last + 1):
            n, m = units[i], units[i + 1]
            W = _table(params, weight, n, m)
            z = _table(layers, place, rows, m)
            kernels.product(a, W, z, False)
            if i < last:
                b = _line(params, bias, m)
                if kernels.derives:
                    kernels.deriving(z, b, _table(derivatives, place, rows, m))
                else:
                    kernels.forward(z, b)
                weight += n * m
                bias += m
                place += most * m
            a = z
        m = units[last + 1]
        sums[LOSS] += kernels.loss(
            z,
            _line(params, bias, m),
            y[start:stop],
            _line(w, start, rows) if w.size else w,
            _line(total, bias, m),
            no_scratch,
        )
        # Backward: `delta` is the gradient by what the layer gave before its bias.
        delta = z
        for i in range(last, 0, -1):
            n, m = units[i], units[i + 1]
            place -= most * n
            bias -= n
            seen = _table(layers, place, rows, n)
            below = _table(deltas, place, rows, n)
            out = _table(total, weight, n, m)
            kernels.product(seen, delta, out, True)
            W = _table(params, weight, n, m)
            W_T = _table(scratch, 0, m, n)
            for j in range(n):
                for k in range(m):
                    W_T[k, j] = W[j, k]
            kernels.product(delta, W_T, below, False)
            derived = seen
            if kernels.derives:
                derived = _table(derivatives, place, rows, n)
            kernels.backward(derived, below, _line(total, bias, n), no_scratch)
            delta = below
            weight -= units[i - 1] * n
        out = _table(total, 0, units[0], units[1])
        kernels.product(x, delta, out, True)
        if number == ends.size - 2:
            square = total.dtype.type(0)
            for j in range(total.size):
                square += total[j] * total[j]
            sums[GRADIENT] = square / numbers[number, DIVISOR] ** 2
        sums[NORM] += kernels.solver(
            params,
            total,
            first,
            second,
            n_weights,
            alpha,
            numbers[number],
            settings,
        )


#: As `skmlp.kernels.compiled_updates.compiled`, for one list of types.
_compile_for: Any = functools.partial(
    njit,
    nogil=True,
    cache=True,
    error_model="numpy",
    fastmath={"reassoc", "contract", "nsz"},
)


@functools.cache
def _functions(dtype: str, y: Any) -> tuple[Any, Any]:
    """What makes `Kernels`, and what runs them, for a dtype and a kind of targets."""
    real = types.float32 if dtype == "float32" else types.float64
    line, table = types.Array(real, 1, "C"), types.Array(real, 2, "C")
    doubles, rows = types.float64[::1], types.float64[:, ::1]
    index, double = types.intp, types.float64
    function, nothing = types.FunctionType, types.void
    fields = (
        types.boolean,
        function(nothing(table, table, table, types.boolean)),
        function(nothing(table, line)),
        function(nothing(table, line, table)),
        function(nothing(table, table, line, table)),
        function(double(table, line, y, line, line, table)),
        function(double(line, line, line, line, index, double, doubles, doubles)),
    )
    kernels = _KernelsType(list(zip(_FIELDS, fields, strict=True)))
    ends, four = index[::1], types.UniTuple(line, 4)
    run = nothing(
        kernels,
        ends,
        double,
        doubles,
        four,
        four,
        table,
        y,
        line,
        ends,
        rows,
        doubles,
    )
    return _compile_for(kernels(*fields))(_make), _compile_for(run)(_run)


@functools.cache
def runner(
    dtype: str, y: Any, activation: str, loss: str, solver: str
) -> Callable[..., None]:
    """What runs the steps of a kind of networks.

    It takes as long to hand over the functions as some steps take: hence once for each
    kind.

    Parameters
    ----------
    dtype : {"float32", "float64"}
        Of the network.
    y : numba type
        Of the targets, as `type_of` gives it.
    activation, loss, solver : str
        Names of kernels; the solver's is one of `SOLVERS`.

    Returns
    -------
    callable
        `_run` without its first argument.
    """
    make, run = _functions(dtype, y)
    derives = activation in compiled_kernels.DERIVING
    deriving: Any = no_deriving
    backward: Any = compiled_kernels.scaled_backward
    if derives:
        deriving = compiled_kernels.DERIVING[activation]
    else:
        backward = compiled_kernels.BACKWARD[activation]
    kernels = make(
        derives,
        product,
        compiled_kernels.FORWARD[activation],
        deriving,
        backward,
        compiled_kernels.LOSS[loss],
        SOLVERS[solver],
    )
    return functools.partial(run, kernels)


def type_of(y: Array) -> Any:
    """The numba type of some targets."""
    return typeof(y)
