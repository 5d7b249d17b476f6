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


#: NAdam is not among them: its rates come from the steps before.
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
class _ProgramType(types.StructRef):
    """The numba type of a `Program`."""

    def preprocess_fields(self, fields):
        """Take literal types for what they are."""
        return tuple((name, types.unliteral(of)) for name, of in fields)


class Program(structref.StructRefProxy):
    """A network, its solver, and all their arrays, in one compiled object."""


_FIELDS = (
    "derives",
    "product",
    "forward",
    "deriving",
    "backward",
    "loss",
    "solver",
    "most",
    "units",
    "n_weights",
    "alpha",
    "settings",
    "params",
    "total",
    "first",
    "second",
    "layers",
    "deltas",
    "derivatives",
    "scratch",
)
structref.define_proxy(Program, _ProgramType, list(_FIELDS))


@functools.cache
def _types(dtype: str, y: Any) -> tuple[Any, ...]:
    """The types of the fields, for a kind of targets."""
    real = types.float32 if dtype == "float32" else types.float64
    line, table = types.Array(real, 1, "C"), types.Array(real, 2, "C")
    doubles = types.Array(types.float64, 1, "C")
    index, double = types.intp, types.float64
    function = types.FunctionType
    update = double(line, line, line, line, index, double, doubles, doubles)
    return (
        types.boolean,
        function(types.void(table, table, table, types.boolean)),
        function(types.void(table, line)),
        function(types.void(table, line, table)),
        function(types.void(table, table, line, table)),
        function(double(table, line, y, line, line, table)),
        function(update),
        index,
        types.Array(index, 1, "C"),
        index,
        double,
        doubles,
        *[line] * 8,
    )


@compiled
def _table(flat, start, rows, columns):
    """A part of a flat array as a matrix; slices take thrice as long to compile."""
    return carray(pointer(flat, start), (rows, columns))


@compiled
def _line(flat, start, size):
    """A part of a flat array."""
    return carray(pointer(flat, start), (size,))


def _make(
    derives,
    product,
    forward,
    deriving,
    backward,
    loss,
    solver,
    most,
    units,
    n_weights,
    alpha,
    settings,
    params,
    total,
    first,
    second,
    layers,
    deltas,
    derivatives,
    scratch,
):
    return Program(
        derives,
        product,
        forward,
        deriving,
        backward,
        loss,
        solver,
        most,
        units,
        n_weights,
        alpha,
        settings,
        params,
        total,
        first,
        second,
        layers,
        deltas,
        derivatives,
        scratch,
    )


def _run(program, X, y, w, ends, numbers, sums):
    """Do the minibatches between the ends. See `skmlp.steps.CompiledSteps`."""
    units, params, total = program.units, program.params, program.total
    layers, deltas, scratch = program.layers, program.deltas, program.scratch
    last, most = units.size - 2, program.most
    no_scratch = _table(total, 0, 0, 1)
    for number in range(ends.size - 1):
        start, stop = ends[number], ends[number + 1]
        rows = stop - start
        x = _table(X, start * units[0], rows, units[0])
        # Forward: `a` is what a layer is given, `z` what it gives.
        a, z = x, x
        bias, weight, place = program.n_weights, 0, 0
        for i in range(last + 1):
            n, m = units[i], units[i + 1]
            W = _table(params, weight, n, m)
            z = _table(layers, place, rows, m)
            program.product(a, W, z, False)
            if i < last:
                b = _line(params, bias, m)
                if program.derives:
                    program.deriving(z, b, _table(program.derivatives, place, rows, m))
                else:
                    program.forward(z, b)
                weight += n * m
                bias += m
                place += most * m
            a = z
        m = units[last + 1]
        sums[LOSS] += program.loss(
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
            program.product(seen, delta, out, True)
            W = _table(params, weight, n, m)
            W_T = _table(scratch, 0, m, n)
            for j in range(n):
                for k in range(m):
                    W_T[k, j] = W[j, k]
            program.product(delta, W_T, below, False)
            derived = seen
            if program.derives:
                derived = _table(program.derivatives, place, rows, n)
            program.backward(derived, below, _line(total, bias, n), no_scratch)
            delta = below
            weight -= units[i - 1] * n
        out = _table(total, 0, units[0], units[1])
        program.product(x, delta, out, True)
        if number == ends.size - 2:
            square = total.dtype.type(0)
            for j in range(total.size):
                square += total[j] * total[j]
            sums[GRADIENT] = square / numbers[number, DIVISOR] ** 2
        sums[NORM] += program.solver(
            params,
            total,
            program.first,
            program.second,
            program.n_weights,
            program.alpha,
            numbers[number],
            program.settings,
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
def functions(dtype: str, y: Any) -> tuple[Callable[..., Any], Callable[..., None]]:
    """What makes a `Program`, and what runs it, for a kind of targets.

    Parameters
    ----------
    dtype : {"float32", "float64"}
        Of the network.
    y : numba type
        Of the targets, as `type_of` gives it.
    """
    fields = _types(dtype, y)
    program = _ProgramType(list(zip(_FIELDS, fields, strict=True)))
    line, table = fields[-1], types.Array(fields[-1].dtype, 2, "C")
    doubles = types.Array(types.float64, 1, "C")
    numbers = types.Array(types.float64, 2, "C")
    ends = types.Array(types.intp, 1, "C")
    run = types.void(program, table, y, line, ends, numbers, doubles)
    return _compile_for(program(*fields))(_make), _compile_for(run)(_run)


def type_of(y: Array) -> Any:
    """The numba type of some targets."""
    return typeof(y)
