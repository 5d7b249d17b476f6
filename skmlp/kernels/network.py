"""Forward and backward of some rows as one compiled function.

Kernels are handed over by their addresses, so that activations, losses and solvers need
not be compiled together, and none is compiled that a fit does not need.

There are no slices here: numba counts the users of a slice's memory, for all threads in
one place, which then goes from core to core.
"""

# mypy cannot see what numba infers.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc"
# mypy: disable-error-code="call-arg, var-annotated, unreachable"

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from numba import from_dtype, types

from skmlp.arrays import Array
from skmlp.kernels import compiled as kernels_by_name
from skmlp.kernels.atomics import load, replace
from skmlp.kernels.jit import by_address, entry, inner, while_compiling
from skmlp.kernels.pointers import (
    address_of,
    call,
    call_for_number,
    far_line,
    far_table,
    line,
    part_for,
    table,
)
from skmlp.kernels.products.blas import address_of_gemm, blas_product
from skmlp.kernels.products.gemm import AB, ABT, ATB, tiled_product
from skmlp.kernels.sync import DONE, wait_for

#: Places of the kernels' addresses. 0 stands for a kernel that is not needed.
FORWARD, OF_GRADIENT, PRODUCT, GEMM, OUTPUT, LOSS, OF_KNOWN = range(7)
DROP, MULTIPLY = 7, 8
#: Of the step and what goes with it; see `skmlp.kernels.epoch`.
STEP, SOLVER, ABSOLUTE, SHRINK, AVERAGE, SQUARE = range(9, 15)
#: Then follow three for each hidden layer.
_ACTIVATE, _DERIVING, _BACKWARD, _OF_A_LAYER = 15, 16, 17, 3

#: What each part has for itself, by its place in its room: its rows of each layer, the
#: gradient by them, the derivatives, the masks of dropout, what the layers above see; a
#: matrix; its rows of a minibatch; the numbers whose target is known. The last number
#: is how many rows a part has at most.
LAYERS, DELTAS, DERIVED, MASKS, SEEN, MATRIX, ROWS, KNOWN, MOST = range(9)


#: Numbers in two cache lines, of float32.
LINE = 32


@functools.cache
def signatures(dtype: str, y: Any = None) -> dict[str, Any]:
    """Return the signatures of the kernels, for targets of a type."""
    real = types.float32 if dtype == "float32" else types.float64
    line, table = types.Array(real, 1, "C"), types.Array(real, 2, "C")
    longs, words, doubles = types.int64[::1], types.uint64[::1], types.float64[::1]
    index, double, nothing = types.intp, types.float64, types.void
    net = *[longs] * 2, doubles, line, line, longs  # kernels, units, ..., places
    found = {
        "forward": nothing(*net, table, longs, words, table),
        "product": nothing(index, table, table, table, index, line),
        "output": nothing(table, line),
        "heads": nothing(table, line, longs),
        "drop": nothing(table, table, table, longs, words, index, index, double),
        "multiply": nothing(table, table, table),
        "solver": double(*[line] * 4, index, doubles, doubles),
        "absolute": double(line, index),
        "shrink": nothing(line, line, index, double, double),
        "average": nothing(line, line, double),
        "square": double(line, line, index, double),
        "activate": nothing(table, line),
        "deriving": nothing(table, line, table),
        "backward": nothing(table, table, line),
    }
    if y is not None:
        rows = index, longs, y, line, longs, words  # X, taken, y, w, numbers, stream
        found["gradient"] = double(*net, longs, doubles, line, *rows)
        found["loss"] = double(table, line, y, line, line, doubles)
        found["of_known"] = double(index, table, line, y, line, line, doubles, line)
    return found


@functools.cache
def _of_array(dtype: Any, n_dims: int, writeable: bool) -> Any:
    return types.Array(from_dtype(dtype), n_dims, "C", readonly=not writeable)


def type_of(array: Array) -> Any:
    """`numba.typeof` of a C-contiguous array, in a tenth of its time."""
    return _of_array(array.dtype, array.ndim, array.flags.writeable)


def address_of_loss(kernel: Any, z: Array, y: Array) -> int:
    """Return the address of a loss for predictions and targets of these dtypes."""
    return address_of(kernel, signatures(z.dtype.name, type_of(y))["loss"])


def of_network(
    dtype: str, activations: Sequence[str], tiled: bool, deriving: bool
) -> dict[int, int]:
    """Return the addresses of what a forward pass needs, and a backward one besides."""
    names, wanted = kernels_by_name, [(FORWARD, "forward", forward)]
    wanted.append((PRODUCT, "product", tiled_product if tiled else blas_product))
    for i, name in enumerate(activations):
        first, kernel = _OF_A_LAYER * i, names.DERIVING.get(name)
        if deriving and kernel is not None:
            wanted.append((_DERIVING + first, "deriving", kernel))
            wanted.append((_BACKWARD + first, "backward", names.scaled_backward))
            continue
        wanted.append((_ACTIVATE + first, "activate", names.FORWARD[name]))
        if deriving:
            wanted.append((_BACKWARD + first, "backward", names.BACKWARD[name]))
    kinds = signatures(dtype)
    found = {place: address_of(kernel, kinds[kind]) for place, kind, kernel in wanted}
    return found if tiled else found | {GEMM: address_of_gemm(dtype)}


def room_for(sizes: Sequence[int], rows: int, n_parts: int, dtype: Any) -> list[Array]:
    """Make room of so many numbers for each part, and `places` in it; see `MOST`."""
    # In cache lines of its own: what different threads write lies so far apart.
    lines = [-(-size // LINE) * LINE for size in sizes]
    *places, size = accumulate(lines, initial=0)
    room = np.empty(n_parts * size, dtype)
    return [room, np.array([*places, rows], np.int64)]


def as_array(addresses: dict[int, int], n_hidden: int) -> Array:
    """Return the addresses, by their places, as compiled code takes them."""
    array = np.zeros(_ACTIVATE + _OF_A_LAYER * n_hidden, np.int64)
    array[list(addresses)] = list(addresses.values())
    return array


@inner
def _sizes(units):
    """The number of weights, and of units above the features but for the last ones."""
    n_weights, width, last = 0, 0, units.size - 2
    for i in range(last + 1):
        n_weights += units[i] * units[i + 1]
        width += units[i + 1]
    return n_weights, width - units[last + 1]


@inner
def _drop(kernels, dropout, layer, a, mask, out, numbers, stream):
    """Write what the units of a layer are multiplied by, and what is left of them."""
    threshold, scale = int(dropout[layer]), dropout[dropout.size // 2 + layer]
    given = a, mask, out, numbers, stream, layer, threshold, scale
    call(kernels[DROP], given)


@by_address
def forward(
    kernels, units, dropout, params, room, places, x, numbers, stream, out
) -> None:
    """Compute all layers of some rows, the last one to `out` and without its bias."""
    rows, most, last = x.shape[0], places[MOST], units.size - 2
    product, gemm, matrix = kernels[PRODUCT], kernels[GEMM], line(params, 0, 0)
    bias, _ = _sizes(units)
    a, weight, place = x, 0, 0
    for i in range(last + 1):
        n, m = units[i], units[i + 1]
        W, b = table(params, weight, n, m), line(params, bias, m)
        z = out if i == last else table(room, places[LAYERS] + place, rows, m)
        call(product, (gemm, a, W, z, AB, matrix))
        if i == last:
            break
        of_layer = _OF_A_LAYER * i
        if kernels[_DERIVING + of_layer] != 0:
            d = table(room, places[DERIVED] + place, rows, m)
            call(kernels[_DERIVING + of_layer], (z, b, d))
        else:
            call(kernels[_ACTIVATE + of_layer], (z, b))
        a = z
        if dropout.size and dropout[i + 1]:
            mask = table(room, places[MASKS] + place, rows, m)
            a = table(room, places[SEEN] + place, rows, m)
            _drop(kernels, dropout, i + 1, z, mask, a, numbers, stream)
        weight += n * m
        bias += m
        place += most * m


@by_address
def gradient(
    kernels,
    units,
    dropout,
    params,
    room,
    places,
    trained,
    settings,
    total,
    X,
    taken,
    y,
    w,
    numbers,
    stream,
) -> float:
    """Write the gradient of some rows' loss to `total`; return the loss.

    `X` is the address of the first row, or of the table of which rows are `taken`.
    """
    rows, most, last, width = y.shape[0], places[MOST], units.size - 2, units[0]
    if rows == 0:
        for i in range(total.size):
            total[i] = 0
        return 0.0
    x = far_table(X, 0, params, rows, width)
    if taken.size:
        x = table(room, places[ROWS], rows, width)
        for i in range(rows):
            row = far_line(X, taken[i] * width, params, width)
            copy = line(room, places[ROWS] + i * width, width)
            for j in range(width):
                copy[j] = row[j]
    product, gemm = kernels[PRODUCT], kernels[GEMM]
    lowest = last + 1
    for i in range(last, -1, -1):
        lowest = i if trained[i] else lowest
    n_weights, width = _sizes(units)
    m = units[last + 1]
    place, bias = most * width, n_weights + width
    weight = n_weights - units[last] * m
    if dropout.size and dropout[0]:
        # The masks of the features come last, and the features that are left over them.
        mask = table(room, places[MASKS] + most * (width + m), rows, units[0])
        _drop(kernels, dropout, 0, x, mask, mask, numbers, stream)
        x = mask
    delta = table(room, places[LAYERS] + place, rows, m)
    net = kernels, units, dropout, params, room, places
    call(kernels[FORWARD], (*net, x, numbers, stream, delta))
    of_loss = delta, line(params, bias, m), y, w, line(total, bias, m), settings
    if kernels[OF_KNOWN] != 0:
        known = line(room, places[KNOWN], 3 * delta.size + 2 * m)
        loss = call_for_number(kernels[OF_KNOWN], (kernels[LOSS], *of_loss, known))
    else:
        loss = call_for_number(kernels[LOSS], of_loss)
    # Backward: `delta` is the gradient by what the layer gave before its bias.
    for i in range(last, lowest - 1, -1):
        n, m = units[i], units[i + 1]
        out, matrix = table(total, weight, n, m), line(room, places[MATRIX], n * m)
        if i == 0:
            call(product, (gemm, x, delta, out, ATB, matrix))
            break
        place -= most * n
        bias -= n
        dropped = dropout.size and dropout[i]
        if trained[i]:
            first = places[SEEN] if dropped else places[LAYERS]
            a = table(room, first + place, rows, n)
            call(product, (gemm, a, delta, out, ATB, matrix))
        if lowest == i:
            break
        W, below = (
            table(params, weight, n, m),
            table(room, places[DELTAS] + place, rows, n),
        )
        call(product, (gemm, delta, W, below, ABT, matrix))
        if dropped:
            mask = table(room, places[MASKS] + place, rows, n)
            call(kernels[MULTIPLY], (below, mask, below))
        of_layer = _OF_A_LAYER * (i - 1)
        first = (
            places[DERIVED] if kernels[_DERIVING + of_layer] != 0 else places[LAYERS]
        )
        d = table(room, first + place, rows, n)
        call(kernels[_BACKWARD + of_layer], (d, below, line(total, bias, n)))
        delta = below
        weight -= units[i - 1] * n
    return loss


@entry
def predict(
    kernels, units, dropout, heads, params, odd, X, out, room, places, turns, me
):
    """Write the predictions of rows, block by block, until all are claimed.

    `X` is the address of the rows; `odd` gets a 1 if not all of them are surely finite.
    `turns` are the number of threads, the address of their counters, and the numbers of
    the first block and of the one after the last. Those of a later call go on from
    there: whoever comes late finds none left.

    A single output may come with its bias for each row of a block: in a column there
    are no vectors, so its numbers are then one row.
    """
    n, n_layers, most = units[0], units.size - 1, places[MOST]
    n_threads, counters, begin, end = turns
    m, none, own = units[n_layers], line(units, 0, 0), part_for(room, me, n_threads)
    n_weights, width = _sizes(units)
    b = line(params, n_weights + width, params.size - n_weights - width)
    no_stream = np.empty(0, np.uint64)
    block = load(counters)
    while block < end:
        if replace(counters, block, block + 1):
            start = (block - begin) * most
            rows = min(most, out.shape[0] - start)
            x = far_table(X, start * n, params, rows, n)
            z = table(out, start * m, rows, m)
            total, values = params.dtype.type(0), far_line(X, start * n, params, x.size)
            for i in range(values.size):
                total += values[i]
            if not abs(total) < np.inf:
                odd[0] = 1
            net = kernels, units, dropout, params, own, places
            call(kernels[FORWARD], (*net, x, none, no_stream, z))
            if heads.size:
                call(kernels[OUTPUT], (z, b, heads))
            else:
                if b.size > m:
                    z = table(out, start, 1, rows)
                call(kernels[OUTPUT], (z, b))
            done = load(counters + DONE)
            while not replace(counters + DONE, done, done + 1):
                done = load(counters + DONE)
        block = load(counters)
    wait_for(counters + DONE, end)


def predictor(
    dtype: str, activations: Sequence[str], output: str, tiled: bool
) -> Callable[..., None]:
    """Return `predict` for a kind of networks, without its `kernels`."""
    kernels = _kernels(dtype, tuple(activations), output, tiled)
    return functools.partial(predict, kernels)


@functools.cache
@while_compiling()
def _kernels(
    dtype: str, activations: tuple[str, ...], output: str, tiled: bool
) -> Array:
    """Compile what predictions of a kind of networks need, and return the addresses."""
    kind = "heads" if output == "softmax_heads" else "output"
    kernel = kernels_by_name.FORWARD[output]
    addresses = of_network(dtype, activations, tiled, deriving=False)
    addresses[OUTPUT] = address_of(kernel, signatures(dtype)[kind])
    return as_array(addresses, len(activations))
