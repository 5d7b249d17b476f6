"""Whole steps as one compiled function, which several threads can run together.

In the steps of a small network the calls from Python cost as much as what they compute.
Here a run of minibatches, with all products, activations, losses and updates, is one
call. Kernels are handed over by their addresses, so that activations, losses and
solvers need not be compiled together, and none is compiled that a fit does not need.

Each thread calls the function with the same arguments but the last, its own number;
together they do what one would do alone. See `skmlp.kernels.sync`.

There are no slices here: numba counts the users of a slice's memory, for all threads in
one place, which then goes from core to core.
"""

# mypy cannot see what numba infers.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc"
# mypy: disable-error-code="call-arg, var-annotated, unreachable"

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numba import typeof, types

from skmlp.kernels import compiled as kernels_by_name
from skmlp.kernels.atomics import load, pause, replace, store, yield_core
from skmlp.kernels.jit import compiled, inner
from skmlp.kernels.network import (
    ABSOLUTE,
    AVERAGE,
    GATHER,
    LOSS,
    MASK,
    ROWS,
    SCATTER,
    SHRINK,
    SOLVER,
    SQUARE,
    as_array,
    gradient,
    of_layers,
    of_product,
    signatures,
)
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
from skmlp.kernels.solvers import DIVISOR, N_NUMBERS, SHARE, THRESHOLD
from skmlp.kernels.sync import COUNTERS, DONE, LOOKS

Array = np.ndarray[Any, np.dtype[Any]]

#: What a stage of a step does, as bits: the gradient of each part's rows; the sum over
#: the parts; the squared norm of the gradient with its penalty; the solver's step. All
#: parts end a stage before one begins the next.
GRADIENT, REDUCE, NORM, UPDATE = 1, 2, 4, 8

#: What each part of a run adds up: the loss; the squared norm of the penalised
#: parameters; the squared norm of its last step's gradient; the squared norm that the
#: bound on the gradient looks at. Then comes room for a step's numbers.
LOSS_SUM, PENALTY_SUM, GRADIENT_SUM, NORM_SUM, _ROOM = range(5)

#: Real options of a fit: the bound on the gradient's norm (0 for none), the L2 penalty,
#: the share of the L1 penalty, and the solver's epsilon.
CLIP, ALPHA, L1_RATIO, EPSILON = range(4)


@inner
def _update(kernels, settings, options, state, first, size, penalised, numbers):
    """Take the solver's step, and what goes with it, on a run of parameters."""
    params, total = line(state[0], first, size), line(state[1], first, size)
    moment, scale = line(state[2], first, size), line(state[3], first, size)
    absolute = 0.0
    if kernels[SHRINK] != 0:
        absolute = call_for_number(kernels[ABSOLUTE], (params, penalised))
    norm = call_for_number(
        kernels[SOLVER],
        (params, total, moment, scale, penalised, numbers, settings),
    )
    if kernels[SHRINK] != 0:
        if state[3].size != state[0].size:
            scale = line(params, 0, 0)
        threshold = numbers[THRESHOLD] / numbers[DIVISOR]
        call(kernels[SHRINK], (params, scale, penalised, threshold, options[EPSILON]))
        ratio = options[L1_RATIO]
        norm = (1.0 - ratio) * norm + 2.0 * ratio * absolute
    if kernels[AVERAGE] != 0:
        mean = line(state[4], first, size)
        call(kernels[AVERAGE], (mean, params, numbers[SHARE]))
    return norm


@inner
def _penalised(first, size, n_weights):
    """How many of some parameters carry the penalty: weights come first."""
    n = n_weights - first
    return 0 if n < 0 else (size if n > size else n)


@compiled
def _run(
    kernels,
    units,
    trained,
    runs,
    span,
    stages,
    settings,
    loss_settings,
    dropout,
    options,
    state,
    room,
    counters,
    X,
    taken,
    row_numbers,
    y,
    w,
    ends,
    numbers,
    key,
    sums,
    phase,
    me,
):
    """Do the minibatches between the ends. See `skmlp.training.fused_epoch`.

    A step has stages. In the first one a part computes some rows' share of the
    gradient; in the others it has a segment of the parameters between `span`.
    """
    params, totals = state[0], state[1]
    n_parts, size, n_weights, wide = sums.shape[0], params.size, 0, sums.shape[1]
    for i in range(units.size - 1):
        n_weights += units[i] * units[i + 1]
    stride, n = totals.size // n_parts, units[0]
    for number in range(ends.size - 1):
        begin, n_rows = ends[number], ends[number + 1] - ends[number]
        for stage in stages:
            phase += 1
            for turn in range(n_parts):
                part = (me + turn) % n_parts
                where = counters + COUNTERS * part
                if n_parts > 1 and (
                    load(where) != phase - 1 or not replace(where, phase - 1, phase)
                ):
                    continue
                if stage & GRADIENT:
                    start = begin + part * n_rows // n_parts
                    rows = begin + (part + 1) * n_rows // n_parts - start
                    total = line(totals, part * stride, size)
                    if rows:
                        own = (
                            part_for(room[0], part, n_parts),
                            part_for(room[1], part, n_parts),
                            part_for(room[2], part, n_parts),
                            part_for(room[3], part, n_parts),
                            part_for(room[4], part, n_parts),
                            part_for(room[5], part, n_parts),
                            part_for(room[6], part, n_parts),
                            part_for(room[7], part, n_parts),
                        )
                        x = far_table(X, start * n, params, rows, n)
                        if taken.size:
                            x = table(own[ROWS], 0, rows, n)
                            for i in range(rows):
                                row = far_line(X, taken[start + i] * n, params, n)
                                copy = line(own[ROWS], i * n, n)
                                for j in range(n):
                                    copy[j] = row[j]
                        mine, stream = row_numbers, line(key, part * key.shape[1], 3)
                        if dropout.size:
                            mine = line(row_numbers, start, rows)
                            stream[2] = np.uint64(numbers[number, 2] - 1)
                        given = line(w, start, rows) if w.size else w
                        block = x, part_of(y, start, rows), given, mine, stream
                        sums[part, LOSS_SUM] += gradient(
                            kernels,
                            units,
                            trained,
                            loss_settings,
                            dropout,
                            params,
                            total,
                            own,
                            block,
                        )
                    else:
                        for j in range(size):
                            total[j] = 0
                low = span[0] + part * (span[1] - span[0]) // n_parts
                high = span[0] + (part + 1) * (span[1] - span[0]) // n_parts
                if stage & REDUCE:
                    total = line(totals, low, high - low)
                    for other in range(1, n_parts):
                        more = line(totals, other * stride + low, high - low)
                        for j in range(high - low):
                            total[j] += more[j]
                own_numbers = line(sums, part * wide + _ROOM, N_NUMBERS)
                if stage & UPDATE:
                    for j in range(N_NUMBERS):
                        own_numbers[j] = numbers[number, j]
                    if options[CLIP] > 0.0:
                        norm = 0.0
                        for other in range(n_parts):
                            norm += sums[other, NORM_SUM]
                        norm = np.sqrt(norm) / own_numbers[DIVISOR]
                        if norm > options[CLIP]:
                            own_numbers[DIVISOR] *= norm / options[CLIP]
                if stage & NORM:
                    sums[part, NORM_SUM] = 0.0
                square = params.dtype.type(0)
                for k in range(runs.shape[0] if stage & (NORM | UPDATE) else 0):
                    first, stop = max(runs[k, 0], low), min(runs[k, 1], high)
                    if first >= stop:
                        continue
                    length = stop - first
                    penalised = _penalised(first, length, n_weights)
                    if stage & NORM:
                        sums[part, NORM_SUM] += call_for_number(
                            kernels[SQUARE],
                            (
                                line(params, first, length),
                                line(totals, first, length),
                                penalised,
                                options[ALPHA],
                            ),
                        )
                    if stage & UPDATE:
                        if number == ends.size - 2:
                            total = line(totals, first, length)
                            for j in range(length):
                                square += total[j] * total[j]
                        sums[part, PENALTY_SUM] += _update(
                            kernels,
                            settings,
                            options,
                            state,
                            first,
                            length,
                            penalised,
                            own_numbers,
                        )
                if stage & UPDATE and number == ends.size - 2:
                    divisor = numbers[number, DIVISOR]
                    sums[part, GRADIENT_SUM] = square / (divisor * divisor)
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
def _signatures(dtype: str, y: Any) -> tuple[Any, tuple[Any, ...]]:
    """Return those of `_run`, and of the kernels of the loss and of missing targets."""
    real = types.float32 if dtype == "float32" else types.float64
    line, table = types.Array(real, 1, "C"), types.Array(real, 2, "C")
    doubles, rows = types.float64[::1], types.float64[:, ::1]
    index, double, nothing = types.intp, types.float64, types.void
    longs = types.int64[::1]
    run = nothing(
        *[longs] * 3,  # kernels, units, trained
        types.int64[:, ::1],  # runs
        *[longs] * 2,  # span, stages
        *[doubles] * 4,  # settings, loss_settings, dropout, options
        types.UniTuple(line, 5),  # state
        types.UniTuple(line, 8),  # room
        *[index] * 2,  # counters, X
        *[longs] * 2,  # taken, row_numbers
        *(y, line, longs, rows),  # y, w, ends, numbers
        types.uint64[:, ::1],  # key
        *(rows, index, index),  # sums, phase, me
    )
    of_loss = (
        double(table, line, y, line, line, doubles),
        index(table, line, y, line, table, table, line),
        nothing(table, y, table, line),
    )
    return run, of_loss


def runner(
    dtype: str,
    y: Array,
    activations: Sequence[str],
    loss: str,
    solver: str,
    *,
    tiled: bool,
    dropout: bool,
    masked: bool,
    l1: bool,
    average: bool,
    clip: bool,
) -> Callable[..., None]:
    """Return what runs the steps of a kind of networks: `_run` without `kernels`.

    Parameters
    ----------
    dtype : {"float32", "float64"}
        Of the network.
    y : ndarray
        Targets of the kind that come.
    activations : sequence of str
        Of the hidden layers.
    loss, solver : str
        Names of kernels.
    tiled : bool
        Whether products are those of `skmlp.kernels.products.gemm`, or the BLAS's.
    dropout, masked, l1, average, clip : bool
        What else the fit needs.
    """
    kernels, names = signatures(dtype), kernels_by_name
    wanted: list[tuple[int, Any, Any]] = [(SOLVER, names.STEP[solver], "solver")]
    if dropout:
        wanted.append((MASK, names.dropout_mask, "mask"))
    if l1:
        wanted.append((ABSOLUTE, names.absolute_sum, "absolute"))
        wanted.append((SHRINK, names.soft_threshold, "shrink"))
    if average:
        wanted.append((AVERAGE, names.move_average, "average"))
    if clip:
        wanted.append((SQUARE, names.gradient_norm, "square"))
    run, of_loss = _signatures(dtype, typeof(y))
    addresses = {
        **of_product(dtype, tiled),
        **of_layers(dtype, activations, train=True),
        **{place: address_of(kernel, kernels[kind]) for place, kernel, kind in wanted},
        LOSS: address_of(names.LOSS[loss], of_loss[0]),
    }
    if masked:
        addresses[GATHER] = address_of(names.gather_known, of_loss[1])
        addresses[SCATTER] = address_of(names.scatter_known, of_loss[2])
    _run.compile(run)
    return functools.partial(_run, as_array(addresses, len(activations)))
