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
from typing import Any, NamedTuple

import numpy as np
from numba import types

from skmlp.arrays import Array
from skmlp.kernels import compiled as kernels_by_name
from skmlp.kernels.atomics import replace, store
from skmlp.kernels.jit import by_address, entry, named, while_compiling
from skmlp.kernels.network import (
    ABSOLUTE,
    AVERAGE,
    DROP,
    LOSS,
    MULTIPLY,
    OF_GRADIENT,
    OF_KNOWN,
    SHRINK,
    SOLVER,
    SQUARE,
    STEP,
    as_array,
    gradient,
    of_network,
    signatures,
    type_of,
)
from skmlp.kernels.pointers import (
    address_of,
    call,
    call_for_number,
    line,
    part_for,
    part_of,
)
from skmlp.kernels.solvers import COUNT, DIVISOR, N_NUMBERS, SHARE, THRESHOLD
from skmlp.kernels.sync import COUNTERS, DONE, wait_for

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


@functools.cache
def _step_with(clips: bool, shrinks: bool, averages: bool) -> Any:
    """Return what does the stages after the gradient, with no more than a fit needs.

    Where a branch is for nobody, numba leaves it out: half of the time to compile.
    """

    def step(
        kernels,
        settings,
        options,
        state,
        runs,
        stage,
        segments,
        part,
        last,
        numbers,
        sums,
    ):
        """Do the stages after the gradient on a part's segment of the parameters.

        `sums` are those of all parts, with room for a step's numbers behind them.
        `last` says whether the gradient is to be measured.
        """
        params, totals, n_parts = state[0], state[1], segments.size - 2
        n_weights, low, high = segments[0], segments[part + 1], segments[part + 2]
        width, stride = sums.size // n_parts, totals.size // n_parts
        own = line(sums, part * width, width)
        if stage & REDUCE:
            total = line(totals, low, high - low)
            for other in range(1, n_parts):
                more = line(totals, other * stride + low, high - low)
                for j in range(high - low):
                    total[j] += more[j]
        if clips and stage & NORM:
            own[NORM_SUM] = 0.0
        if clips and stage & UPDATE and options[CLIP] > 0.0:
            norm, divisor = 0.0, numbers[DIVISOR]
            for other in range(n_parts):
                norm += sums[other * width + NORM_SUM]
            norm = np.sqrt(norm) / divisor
            bounded = line(own, _ROOM, N_NUMBERS)
            for j in range(N_NUMBERS):
                bounded[j] = numbers[j]
            if norm > options[CLIP]:
                bounded[DIVISOR] *= norm / options[CLIP]
            numbers = bounded
        square = params.dtype.type(0)
        for k in range(0, runs.size, 2):
            first = runs[k] if runs[k] > low else low
            size = (runs[k + 1] if runs[k + 1] < high else high) - first
            if size <= 0:
                continue
            # Weights, which carry the penalty, come first.
            penalised = n_weights - first
            penalised = 0 if penalised < 0 else size if penalised > size else penalised
            w, g = line(params, first, size), line(totals, first, size)
            if clips and stage & NORM:
                given = w, g, penalised, options[ALPHA]
                own[NORM_SUM] += call_for_number(kernels[SQUARE], given)
            if not stage & UPDATE:
                continue
            if last:
                for j in range(size):
                    square += g[j] * g[j]
            absolute, scale = 0.0, line(state[3], first, size)
            if shrinks:
                absolute = call_for_number(kernels[ABSOLUTE], (w, penalised))
            given = (
                w,
                g,
                line(state[2], first, size),
                scale,
                penalised,
                numbers,
                settings,
            )
            norm = call_for_number(kernels[SOLVER], given)
            if shrinks:
                if state[3].size != params.size:
                    scale = line(params, 0, 0)
                threshold = numbers[THRESHOLD] / numbers[DIVISOR]
                call(
                    kernels[SHRINK], (w, scale, penalised, threshold, options[EPSILON])
                )
                ratio = options[L1_RATIO]
                norm = (1.0 - ratio) * norm + 2.0 * ratio * absolute
            if averages:
                call(kernels[AVERAGE], (line(state[4], first, size), w, numbers[SHARE]))
            own[PENALTY_SUM] += norm
        if stage & UPDATE and last:
            own[GRADIENT_SUM] = square

    of_kind = f"_{clips:d}{shrinks:d}{averages:d}"
    return by_address(named(step, _step_with, of_kind))


@entry
def _run(
    kernels,
    units,
    trained,
    runs,
    segments,
    stages,
    settings,
    loss_settings,
    dropout,
    options,
    state,
    room,
    places,
    counters,
    X,
    taken,
    row_numbers,
    y,
    w,
    cuts,
    numbers,
    key,
    sums,
    phase,
    me,
):
    """Do minibatches, of which `cuts` say where those of each part begin.

    A step has stages. In the first one a part computes some rows' share of the
    gradient; in the others it has a segment of the parameters. A part claims a stage,
    does it, and says so; see `skmlp.kernels.sync`.
    """
    params, totals, n_parts = state[0], state[1], segments.size - 2
    row_bytes, width = units[0] * params.itemsize, key.size // n_parts
    n_steps, stride = numbers.size // N_NUMBERS, totals.size // n_parts
    for number in range(n_steps):
        now = line(numbers, number * N_NUMBERS, N_NUMBERS)
        for k in range(stages.size):
            stage = stages[k]
            phase += 1
            for turn in range(n_parts):
                part = me + turn
                part -= n_parts if part >= n_parts else 0
                where = counters + COUNTERS * part
                if n_parts > 1 and not replace(where, phase - 1, phase):
                    continue
                if stage & GRADIENT:
                    start = cuts[number * n_parts + part]
                    rows = cuts[number * n_parts + part + 1] - start
                    total = line(totals, part * stride, params.size)
                    stream = line(key, part * width, 3)
                    stream[2] = np.uint64(now[COUNT] - 1)
                    given = (
                        kernels,
                        units,
                        dropout,
                        params,
                        part_for(room, part, n_parts),
                        places,
                        trained,
                        loss_settings,
                        total,
                        X if taken.size else X + start * row_bytes,
                        line(taken, start, rows if taken.size else 0),
                        part_of(y, start, rows),
                        line(w, start, rows if w.size else 0),
                        line(row_numbers, start, rows if row_numbers.size else 0),
                        stream,
                    )
                    loss = call_for_number(kernels[OF_GRADIENT], given)
                    sums[part * (sums.size // n_parts) + LOSS_SUM] += loss
                else:
                    last = number == n_steps - 1
                    given = kernels, settings, options, state, runs, stage, segments
                    call(kernels[STEP], (*given, part, last, now, sums))
                if n_parts > 1:
                    store(where + DONE, phase)
            for part in range(n_parts if n_parts > 1 else 0):
                wait_for(counters + COUNTERS * part + DONE, phase)


@functools.cache
def _signatures(dtype: str, y: Any) -> tuple[Any, Any]:
    """Return the signatures of `_run` and of what `_step_with` returns."""
    line = types.float32[::1] if dtype == "float32" else types.float64[::1]
    longs, doubles, index = types.int64[::1], types.float64[::1], types.intp
    state = types.UniTuple(line, 5)
    run = types.void(
        *[longs] * 6,  # kernels, units, trained, runs, segments, stages
        *[doubles] * 4,  # settings, loss_settings, dropout, options
        *(state, line, longs),  # state, room, places
        *[index] * 2,  # counters, X
        *[longs] * 2,  # taken, row_numbers
        *(y, line, longs, doubles),  # y, w, cuts, numbers
        *(types.uint64[::1], doubles, index, index),  # key, sums, phase, me
    )
    step = types.void(
        *(longs, doubles, doubles, state),  # kernels, settings, options, state
        *(longs, index, longs, index),  # runs, stage, segments, part
        *(types.boolean, doubles, doubles),  # last, numbers, sums
    )
    return run, step


class Needs(NamedTuple):
    """What a fit needs of the kernels, beside activations, loss and solver.

    `tiled` products are those of `skmlp.kernels.products.gemm` instead of the BLAS's.
    """

    tiled: bool
    dropout: bool
    masked: bool
    l1: bool
    average: bool
    clip: bool


def runner(
    dtype: str,
    y: Array,
    activations: Sequence[str],
    loss: str,
    solver: str,
    needs: Needs,
) -> Callable[..., None]:
    """Return what runs the steps of a kind of networks: `_run` without `kernels`.

    `y` are targets of the kind that come.
    """
    kernels = _kernels(dtype, type_of(y), tuple(activations), loss, solver, needs)
    return functools.partial(_run, kernels)


@functools.cache  # finding them takes longer than a fit of few rows
@while_compiling()
def _kernels(
    dtype: str,
    of_y: Any,
    activations: tuple[str, ...],
    loss: str,
    solver: str,
    needs: Needs,
) -> Array:
    """Compile what a kind of networks needs, and return the addresses."""
    names = kernels_by_name
    run, step = _signatures(dtype, of_y)
    kinds = signatures(dtype, of_y) | {"step": step}
    wanted: list[tuple[int, str, Any]] = [
        (OF_GRADIENT, "gradient", gradient),
        (STEP, "step", _step_with(needs.clip, needs.l1, needs.average)),
        (LOSS, "loss", names.LOSS[loss]),
        (SOLVER, "solver", names.STEP[solver]),
    ]
    if needs.dropout:
        wanted.append((DROP, "drop", names.drop))
        wanted.append((MULTIPLY, "multiply", names.multiply))
    if needs.masked:
        wanted.append((OF_KNOWN, "of_known", names.loss_of_known))
    if needs.l1:
        wanted.append((ABSOLUTE, "absolute", names.absolute_sum))
        wanted.append((SHRINK, "shrink", names.soft_threshold))
    if needs.average:
        wanted.append((AVERAGE, "average", names.move_average))
    if needs.clip:
        wanted.append((SQUARE, "square", names.gradient_norm))
    addresses = of_network(dtype, activations, needs.tiled, deriving=True)
    for place, kind, kernel in wanted:
        addresses[place] = address_of(kernel, kinds[kind])
    _run.compile(run)
    return as_array(addresses, len(activations))
