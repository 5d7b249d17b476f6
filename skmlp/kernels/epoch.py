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
from skmlp.kernels.pointers import (
    address_of,
    call,
    call_for_index,
    call_for_number,
    far_line,
    far_table,
    line,
    part_for,
    part_of,
    table,
)
from skmlp.kernels.products.blas import address_of_gemm, blas_product
from skmlp.kernels.products.gemm import AB, ABT, ATB, tiled_product
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

#: Places of the kernels' addresses. 0 stands for a kernel that a fit does not need.
_PRODUCT, _GEMM, _LOSS, _SOLVER, _MASK, _GATHER, _SCATTER = range(7)
_ABSOLUTE, _SHRINK, _AVERAGE, _NORM = range(7, 11)
#: Then follow three for each hidden layer.
_FORWARD, _DERIVING, _BACKWARD, _OF_A_LAYER = 11, 12, 13, 3

#: What each part has for itself: its rows of each layer, the gradient by them, the
#: derivatives, the masks of dropout, what the layers above see; a matrix; its rows of a
#: minibatch; the numbers whose target is known.
_LAYERS, _DELTAS, _DERIVED, _MASKS, _SEEN, _MATRIX, _ROWS, _KNOWN = range(8)

#: Real options of a fit: the bound on the gradient's norm (0 for none), the L2 penalty,
#: the share of the L1 penalty, and the solver's epsilon.
CLIP, ALPHA, L1_RATIO, EPSILON = range(4)


@inner
def _drop(kernels, dropout, layer, rows, width, mask, numbers, stream):
    """Write what the units of a layer are multiplied by."""
    n_layers = dropout.size // 2
    call(
        kernels[_MASK],
        (mask, numbers, stream, layer, int(dropout[layer]), dropout[n_layers + layer]),
    )


@inner
def _times(a, b, out, size):
    """Write the product of each pair of numbers."""
    first, second = line(a, 0, size), line(b, 0, size)
    result = line(out, 0, size)
    for i in range(size):
        result[i] = first[i] * second[i]


@inner
def _loss_of_known(kernels, settings, z, b, y, w, grad_b, room):
    """Compute the loss, and its gradient, of the targets that are not missing."""
    if kernels[_GATHER] == 0:
        return call_for_number(kernels[_LOSS], (z, b, y, w, grad_b, settings))
    width, size = z.size // y.size, z.size
    known_z = table(room, 0, y.size, width)
    known_y = table(room, size, y.size, 1)
    known_w = line(room, size + y.size, y.size if w.size else 0)
    n = call_for_index(kernels[_GATHER], (z, b, y, w, known_z, known_y, known_w))
    if n == y.size:
        return call_for_number(kernels[_LOSS], (z, b, y, w, grad_b, settings))
    loss = 0.0
    known_z = table(room, 0, n, width)
    if n:
        rest = size + 2 * y.size
        no_bias, grad = line(room, rest, width), line(room, rest + width, width)
        for j in range(width):
            no_bias[j] = 0
        known_y = table(room, size, n, 1)
        known_w = line(room, size + y.size, n if w.size else 0)
        loss = call_for_number(
            kernels[_LOSS], (known_z, no_bias, known_y, known_w, grad, settings)
        )
    call(kernels[_SCATTER], (known_z, y, z, grad_b))
    return loss


@inner
def _gradient(kernels, units, trained, settings, dropout, params, total, room, block):
    """Write the gradient of some rows' loss to `total`; return the loss."""
    x, y, w, numbers, stream = block
    layers, deltas, derivatives = room[_LAYERS], room[_DELTAS], room[_DERIVED]
    product, gemm, matrix = kernels[_PRODUCT], kernels[_GEMM], room[_MATRIX]
    last, rows, n_weights, width = units.size - 2, x.shape[0], 0, 0
    drops, lowest = dropout.size // 2, last + 1
    for i in range(last, -1, -1):
        n_weights += units[i] * units[i + 1]
        width += units[i + 1]
        lowest = i if trained[i] else lowest
    most = layers.size // width
    # Forward: `a` is what a layer is given, `z` what it gives.
    a, z = x, x
    bias, weight, place = n_weights, 0, 0
    for i in range(last + 1):
        n, m = units[i], units[i + 1]
        W = table(params, weight, n, m)
        z = table(layers, place, rows, m)
        call(product, (gemm, a, W, z, AB, matrix))
        a = z
        if i < last:
            b, of_layer = line(params, bias, m), _OF_A_LAYER * i
            if kernels[_DERIVING + of_layer] != 0:
                d = table(derivatives, place, rows, m)
                call(kernels[_DERIVING + of_layer], (z, b, d))
            else:
                call(kernels[_FORWARD + of_layer], (z, b))
            if drops and dropout[i + 1]:
                mask = table(room[_MASKS], place, rows, m)
                a = table(room[_SEEN], place, rows, m)
                _drop(kernels, dropout, i + 1, rows, m, mask, numbers, stream)
                _times(z, mask, a, rows * m)
            weight += n * m
            bias += m
            place += most * m
    m = units[last + 1]
    b, grad_b = line(params, bias, m), line(total, bias, m)
    loss = _loss_of_known(kernels, settings, z, b, y, w, grad_b, room[_KNOWN])
    # Backward: `delta` is the gradient by what the layer gave before its bias.
    delta = z
    for i in range(last, lowest - 1, -1):
        n, m = units[i], units[i + 1]
        out = table(total, weight, n, m)
        if i == 0:
            call(product, (gemm, x, delta, out, ATB, matrix))
            break
        place -= most * n
        bias -= n
        own = table(layers, place, rows, n)
        dropped = drops and dropout[i]
        if trained[i]:
            seen = table(room[_SEEN], place, rows, n) if dropped else own
            call(product, (gemm, seen, delta, out, ATB, matrix))
        if lowest == i:
            break
        W, below = table(params, weight, n, m), table(deltas, place, rows, n)
        call(product, (gemm, delta, W, below, ABT, matrix))
        if dropped:
            _times(below, table(room[_MASKS], place, rows, n), below, rows * n)
        of_layer = _OF_A_LAYER * (i - 1)
        if kernels[_DERIVING + of_layer] != 0:
            own = table(derivatives, place, rows, n)
        call(kernels[_BACKWARD + of_layer], (own, below, line(total, bias, n)))
        delta = below
        weight -= units[i - 1] * n
    return loss


@inner
def _update(kernels, settings, options, state, first, size, penalised, numbers):
    """Take the solver's step, and what goes with it, on a run of parameters."""
    params, total = line(state[0], first, size), line(state[1], first, size)
    moment, scale = line(state[2], first, size), line(state[3], first, size)
    absolute = 0.0
    if kernels[_SHRINK] != 0:
        absolute = call_for_number(kernels[_ABSOLUTE], (params, penalised))
    norm = call_for_number(
        kernels[_SOLVER],
        (params, total, moment, scale, penalised, numbers, settings),
    )
    if kernels[_SHRINK] != 0:
        if state[3].size != state[0].size:
            scale = line(params, 0, 0)
        threshold = numbers[THRESHOLD] / numbers[DIVISOR]
        call(kernels[_SHRINK], (params, scale, penalised, threshold, options[EPSILON]))
        ratio = options[L1_RATIO]
        norm = (1.0 - ratio) * norm + 2.0 * ratio * absolute
    if kernels[_AVERAGE] != 0:
        mean = line(state[4], first, size)
        call(kernels[_AVERAGE], (mean, params, numbers[SHARE]))
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
                            x = table(own[_ROWS], 0, rows, n)
                            for i in range(rows):
                                row = far_line(X, taken[start + i] * n, params, n)
                                copy = line(own[_ROWS], i * n, n)
                                for j in range(n):
                                    copy[j] = row[j]
                        mine, stream = row_numbers, line(key, part * key.shape[1], 3)
                        if dropout.size:
                            mine = line(row_numbers, start, rows)
                            stream[2] = np.uint64(numbers[number, 2] - 1)
                            if dropout[0]:
                                mask = table(own[_MASKS], own[_LAYERS].size, rows, n)
                                _drop(kernels, dropout, 0, rows, n, mask, mine, stream)
                                _times(x, mask, mask, rows * n)
                                x = mask
                        given = line(w, start, rows) if w.size else w
                        block = x, part_of(y, start, rows), given, mine, stream
                        sums[part, LOSS_SUM] += _gradient(
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
                            kernels[_NORM],
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
def _signatures(dtype: str, y: Any) -> tuple[dict[str, Any], Any]:
    """Return the signatures of the kernels, and of `_run`."""
    real = types.float32 if dtype == "float32" else types.float64
    line, table = types.Array(real, 1, "C"), types.Array(real, 2, "C")
    doubles, rows = types.float64[::1], types.float64[:, ::1]
    index, double, nothing = types.intp, types.float64, types.void
    longs, words = types.int64[::1], types.uint64[::1]
    kernels = {
        "product": nothing(index, table, table, table, index, line),
        "loss": double(table, line, y, line, line, doubles),
        "solver": double(*[line] * 4, index, doubles, doubles),
        "mask": nothing(table, longs, words, index, index, double),
        "gather": index(table, line, y, line, table, table, line),
        "scatter": nothing(table, y, table, line),
        "absolute": double(line, index),
        "shrink": nothing(line, line, index, double, double),
        "average": nothing(line, line, double),
        "norm": double(line, line, index, double),
        "forward": nothing(table, line),
        "deriving": nothing(table, line, table),
        "backward": nothing(table, table, line),
    }
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
    return kernels, run


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
    signatures, run = _signatures(dtype, typeof(y))
    names = kernels_by_name
    wanted: list[tuple[str, Any]] = [
        ("product", tiled_product if tiled else blas_product),
        ("gemm", None),
        ("loss", names.LOSS[loss]),
        ("solver", names.STEP[solver]),
        ("mask", names.dropout_mask if dropout else None),
        ("gather", names.gather_known if masked else None),
        ("scatter", names.scatter_known if masked else None),
        ("absolute", names.absolute_sum if l1 else None),
        ("shrink", names.soft_threshold if l1 else None),
        ("average", names.move_average if average else None),
        ("norm", names.gradient_norm if clip else None),
    ]
    for name in activations:
        deriving = names.DERIVING.get(name)
        wanted += [
            ("forward", None if deriving else names.FORWARD[name]),
            ("deriving", deriving),
            ("backward", names.scaled_backward if deriving else names.BACKWARD[name]),
        ]
    addresses = [
        0 if kernel is None else address_of(kernel, signatures[kind])
        for kind, kernel in wanted
    ]
    if not tiled:
        addresses[_GEMM] = address_of_gemm(dtype)
    _run.compile(run)
    return functools.partial(_run, np.array(addresses, np.int64))
