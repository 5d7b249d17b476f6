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
from typing import Any

import numpy as np
from numba import types

from skmlp.kernels import compiled as kernels_by_name
from skmlp.kernels.atomics import load, pause, replace, yield_core
from skmlp.kernels.jit import compiled, inner
from skmlp.kernels.pointers import (
    address_of,
    call,
    call_for_index,
    call_for_number,
    far_table,
    line,
    part_for,
    table,
)
from skmlp.kernels.products.blas import address_of_gemm, blas_product
from skmlp.kernels.products.gemm import AB, ABT, ATB, tiled_product
from skmlp.kernels.sync import DONE, LOOKS

Array = np.ndarray[Any, np.dtype[Any]]

#: Places of the kernels' addresses. 0 stands for a kernel that is not needed.
PRODUCT, GEMM, OUTPUT, LOSS, MASK, GATHER, SCATTER = range(7)
#: Of the solver and what goes with it; see `skmlp.kernels.epoch`.
SOLVER, ABSOLUTE, SHRINK, AVERAGE, SQUARE = range(7, 12)
#: Then follow three for each hidden layer.
_FORWARD, _DERIVING, _BACKWARD, _OF_A_LAYER = 12, 13, 14, 3

#: What each part has for itself: its rows of each layer, the gradient by them, the
#: derivatives, the masks of dropout, what the layers above see; a matrix; its rows of a
#: minibatch; the numbers whose target is known.
_LAYERS, _DELTAS, _DERIVED, _MASKS, _SEEN, _MATRIX, ROWS, _KNOWN = range(8)


@functools.cache
def signatures(dtype: str) -> dict[str, Any]:
    """Return the signatures of the kernels, but for those that take targets."""
    real = types.float32 if dtype == "float32" else types.float64
    line, table = types.Array(real, 1, "C"), types.Array(real, 2, "C")
    longs, doubles = types.int64[::1], types.float64[::1]
    index, double, nothing = types.intp, types.float64, types.void
    return {
        "product": nothing(index, table, table, table, index, line),
        "output": nothing(table, line),
        "heads": nothing(table, line, longs),
        "mask": nothing(table, longs, types.uint64[::1], index, index, double),
        "solver": double(*[line] * 4, index, doubles, doubles),
        "absolute": double(line, index),
        "shrink": nothing(line, line, index, double, double),
        "average": nothing(line, line, double),
        "square": double(line, line, index, double),
        "forward": nothing(table, line),
        "deriving": nothing(table, line, table),
        "backward": nothing(table, table, line),
    }


def of_product(dtype: str, tiled: bool) -> dict[int, int]:
    """Return the addresses of the products: of `tiled_product`, or of the BLAS."""
    kernel = tiled_product if tiled else blas_product
    address = address_of(kernel, signatures(dtype)["product"])
    return {PRODUCT: address, GEMM: 0 if tiled else address_of_gemm(dtype)}


def of_layers(dtype: str, activations: Sequence[str], train: bool) -> dict[int, int]:
    """Return the addresses of the kernels of hidden layers; `train` with gradients."""
    found, names = {}, kernels_by_name
    for i, name in enumerate(activations):
        deriving = names.DERIVING.get(name) if train else None
        wanted: list[tuple[int, str, Any]] = [
            (_FORWARD, "forward", None if deriving else names.FORWARD[name]),
            (_DERIVING, "deriving", deriving),
        ]
        if train:
            back = names.scaled_backward if deriving else names.BACKWARD[name]
            wanted.append((_BACKWARD, "backward", back))
        for place, kind, kernel in wanted:
            if kernel is not None:
                address = address_of(kernel, signatures(dtype)[kind])
                found[place + _OF_A_LAYER * i] = address
    return found


def as_array(addresses: dict[int, int], n_hidden: int) -> Array:
    """Return the addresses, by their places, as compiled code takes them."""
    array = np.zeros(_FORWARD + _OF_A_LAYER * n_hidden, np.int64)
    array[list(addresses)] = list(addresses.values())
    return array


@inner
def _times(a, b, out, size):
    """Write the product of each pair of numbers."""
    first, second = line(a, 0, size), line(b, 0, size)
    result = line(out, 0, size)
    for i in range(size):
        result[i] = first[i] * second[i]


@inner
def _drop(kernels, dropout, layer, a, mask, out, numbers, stream):
    """Write what the units of a layer are multiplied by, and what then is left."""
    scale = dropout[dropout.size // 2 + layer]
    call(kernels[MASK], (mask, numbers, stream, layer, int(dropout[layer]), scale))
    _times(a, mask, out, a.size)


@inner
def _sizes(units):
    """The number of weights, and of units above the features but for the last ones."""
    n_weights, width, last = 0, 0, units.size - 2
    for i in range(last + 1):
        n_weights += units[i] * units[i + 1]
        width += units[i + 1]
    return n_weights, width - units[last + 1]


@inner
def _forward(kernels, units, dropout, params, room, x, numbers, stream, most, out):
    """Compute all layers of rows, the last one to `out` and without its bias."""
    layers, derivatives, last = room[_LAYERS], room[_DERIVED], units.size - 2
    bias, _ = _sizes(units)
    a, weight, place = x, 0, 0
    rows, drops = x.shape[0], dropout.size // 2
    for i in range(last):
        n, m = units[i], units[i + 1]
        z, b = table(layers, place, rows, m), line(params, bias, m)
        W, of_layer = table(params, weight, n, m), _OF_A_LAYER * i
        call(kernels[PRODUCT], (kernels[GEMM], a, W, z, AB, room[_MATRIX]))
        if kernels[_DERIVING + of_layer] != 0:
            d = table(derivatives, place, rows, m)
            call(kernels[_DERIVING + of_layer], (z, b, d))
        else:
            call(kernels[_FORWARD + of_layer], (z, b))
        a = z
        if drops and dropout[i + 1]:
            mask = table(room[_MASKS], place, rows, m)
            a = table(room[_SEEN], place, rows, m)
            _drop(kernels, dropout, i + 1, z, mask, a, numbers, stream)
        weight += n * m
        bias += m
        place += most * m
    W = table(params, weight, units[last], units[last + 1])
    call(kernels[PRODUCT], (kernels[GEMM], a, W, out, AB, room[_MATRIX]))


@inner
def _loss_of_known(kernels, settings, z, b, y, w, grad_b, room):
    """Compute the loss, and its gradient, of the targets that are not missing."""
    if kernels[GATHER] == 0:
        return call_for_number(kernels[LOSS], (z, b, y, w, grad_b, settings))
    width, size = z.size // y.size, z.size
    known_z = table(room, 0, y.size, width)
    known_y = table(room, size, y.size, 1)
    known_w = line(room, size + y.size, y.size if w.size else 0)
    n = call_for_index(kernels[GATHER], (z, b, y, w, known_z, known_y, known_w))
    if n == y.size:
        return call_for_number(kernels[LOSS], (z, b, y, w, grad_b, settings))
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
            kernels[LOSS], (known_z, no_bias, known_y, known_w, grad, settings)
        )
    call(kernels[SCATTER], (known_z, y, z, grad_b))
    return loss


@inner
def gradient(kernels, units, trained, settings, dropout, params, total, room, block):
    """Write the gradient of some rows' loss to `total`; return the loss."""
    x, y, w, numbers, stream = block
    layers, last, rows = room[_LAYERS], units.size - 2, x.shape[0]
    lowest = last + 1
    for i in range(last, -1, -1):
        lowest = i if trained[i] else lowest
    n_weights, width = _sizes(units)
    m = units[last + 1]
    most = layers.size // (width + m)
    place, bias = most * width, n_weights + width
    weight = n_weights - units[last] * m
    z = table(layers, place, rows, m)
    if dropout.size and dropout[0]:
        # The masks of the features come last, and the features that are left over them.
        mask = table(room[_MASKS], layers.size, rows, units[0])
        _drop(kernels, dropout, 0, x, mask, mask, numbers, stream)
        x = mask
    _forward(kernels, units, dropout, params, room, x, numbers, stream, most, z)
    b, grad_b = line(params, bias, m), line(total, bias, m)
    loss = _loss_of_known(kernels, settings, z, b, y, w, grad_b, room[_KNOWN])
    product, gemm, matrix = kernels[PRODUCT], kernels[GEMM], room[_MATRIX]
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
        dropped = dropout.size and dropout[i]
        if trained[i]:
            seen = table(room[_SEEN], place, rows, n) if dropped else own
            call(product, (gemm, seen, delta, out, ATB, matrix))
        if lowest == i:
            break
        W, below = table(params, weight, n, m), table(room[_DELTAS], place, rows, n)
        call(product, (gemm, delta, W, below, ABT, matrix))
        if dropped:
            _times(below, table(room[_MASKS], place, rows, n), below, rows * n)
        of_layer = _OF_A_LAYER * (i - 1)
        if kernels[_DERIVING + of_layer] != 0:
            own = table(room[_DERIVED], place, rows, n)
        call(kernels[_BACKWARD + of_layer], (own, below, line(total, bias, n)))
        delta = below
        weight -= units[i - 1] * n
    return loss


@compiled
def predict(
    kernels,
    units,
    heads,
    params,
    X,
    out,
    layers,
    n_threads,
    most,
    counters,
    begin,
    end,
    me,
):
    """Write the predictions of rows, block by block of `most`, until all are claimed.

    `X` is the address of the rows. The blocks are numbered from `begin` to `end`, and
    those of a later call go on from there: whoever comes late finds none left.
    """
    n, n_layers = units[0], units.size - 1
    m, nothing, none = units[n_layers], line(params, 0, 0), line(units, 0, 0)
    b = line(params, params.size - m, m)
    own = part_for(layers, me, n_threads)
    room = own, nothing, nothing, nothing, nothing, nothing, nothing, nothing
    block = load(counters)
    while block < end:
        if replace(counters, block, block + 1):
            start = (block - begin) * most
            rows = min(most, out.shape[0] - start)
            x = far_table(X, start * n, params, rows, n)
            z = table(out, start * m, rows, m)
            _forward(kernels, units, nothing, params, room, x, none, none, most, z)
            if heads.size:
                call(kernels[OUTPUT], (z, b, heads))
            else:
                call(kernels[OUTPUT], (z, b))
            done = load(counters + DONE)
            while not replace(counters + DONE, done, done + 1):
                done = load(counters + DONE)
        block = load(counters)
    n_looks = 0
    while load(counters + DONE) < end:
        n_looks += 1
        if n_looks % LOOKS:
            pause()
        else:
            yield_core()


def predictor(
    dtype: str, activations: Sequence[str], output: str, tiled: bool
) -> Callable[..., None]:
    """Return `predict` for a kind of networks, without its `kernels`."""
    kind = "heads" if output == "softmax_heads" else "output"
    kernel = kernels_by_name.FORWARD[output]
    addresses = {
        **of_product(dtype, tiled),
        **of_layers(dtype, activations, train=False),
        OUTPUT: address_of(kernel, signatures(dtype)[kind]),
    }
    return functools.partial(predict, as_array(addresses, len(activations)))
