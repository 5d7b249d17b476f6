"""Predictions in blocks of bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from types import ModuleType
from typing import Any

import numpy as np
from scipy import sparse

from skmlp import kernels as kernel_sets
from skmlp.arrays import Array
from skmlp.cores import usable_cores
from skmlp.model.activations import kernels_of
from skmlp.model.input_encoding import EncodedRows
from skmlp.model.losses import OUTPUT_ACTIVATIONS, output_of
from skmlp.model.network import SMALL_STEP
from skmlp.threads import blas_threads_allowed, products_limit

#: ``compute(X, out)`` writes the outputs of a block of rows.
Compute = Callable[[Any, Array], None]

#: Numbers that the widest layer of a block may hold: 8 MB in float64.
BLOCK_NUMBERS = 2**20
#: Rows that a block has in any case.
LEAST_ROWS = 64

#: Multiply-adds from which on a compiled pass with step threads pays.
_WORTH_THREADS = 4 * 10**7
#: Rows that a thread takes at once: so many that the BLAS does not only arrange the
#: weights, and so few that they stay in a core's cache; and how often, for all to help.
_MOST_ROWS, _LEAST_BLOCKS = 512, 16
#: Multiply-adds of a call, about: then a Ctrl-C is heard.
_PASS = 10**10

_FLOATS = (np.float32, np.float64)


def forward(
    X: Any,
    coefs: Sequence[Array],
    intercepts: Sequence[Array],
    activations: Sequence[Any],
    output: str,
    kernels: str,
    heads: Sequence[int] = (),
    finish: Callable[[Array, slice], Any] | None = None,
    check: Callable[[], Any] | None = None,
) -> Any:
    """Run a fitted network on rows: an array, a sparse matrix, or encoded rows.

    `output` is the activation of the last layer, `heads` the columns of each of its
    heads. ``finish(outputs, rows)`` makes of the outputs of a block of rows, which it
    must not keep, an array with an entry for each of them, or a list of such arrays;
    the outputs of all rows are then never in memory together. The result, of shape (n,
    n_outputs) or what `finish` makes of all rows, has the dtype that the rows and the
    layers have in common.

    ``check()`` raises if X is not finite. Threads that share plain rows look for that
    as they go; only if it may be so is it called.
    """
    dtype, layers = _in_one_dtype(X, coefs, intercepts)
    if sparse.issparse(X):
        X = X.tocsr()
    steps = [*activations, output], heads
    shared = kernels == "compiled" and _can_share(X, layers, steps[0])
    # What rows are encoded as may be finite though they are not.
    if check is not None and not (shared and isinstance(X, np.ndarray)):
        check()
    if shared:
        fused = _Fused(X, layers, *steps, check)
        with products_limit(), closing(fused):
            return _in_blocks(X, dtype, fused, fused.n_rows, layers, finish)
    compute = _by_layer(layers, *steps, kernel_sets.load(kernels))
    widest = max(X.shape[1], *[b.size for _, b in layers])
    return _in_blocks(X, dtype, compute, rows_of_block(widest), layers, finish)


def _in_blocks(
    X: Any,
    dtype: np.dtype[Any],
    compute: Compute,
    size: int,
    layers: Sequence[tuple[Array, Array]],
    finish: Callable[[Array, slice], Any] | None,
) -> Any:
    """Compute the outputs of so many rows at a time; see `forward`."""
    n, width = X.shape[0], layers[-1][1].size
    with np.errstate(all="ignore"):
        if n <= size:  # of a single row each microsecond counts
            out = np.empty((n, width), dtype)
            compute(X.astype(dtype, copy=False), out)
            return out if finish is None else finish(out, slice(0, n))
        result: Any = np.empty((n, width), dtype) if finish is None else None
        block = np.empty((0 if finish is None else size, width), dtype)
        for start in range(0, n, size):
            rows = slice(start, min(start + size, n))
            out = result[rows] if finish is None else block[: rows.stop - start]
            compute(X[rows].astype(dtype, copy=False), out)
            if finish is not None:
                result = with_block(result, finish(out, rows), rows, n)
    return result


def _in_one_dtype(
    X: Any, coefs: Sequence[Any], intercepts: Sequence[Any]
) -> tuple[np.dtype[Any], list[tuple[Array, Array]]]:
    """The dtype that rows and layers have in common, and the layers in it."""
    layers = list(zip(coefs, intercepts, strict=True))
    dtype = X.dtype
    if dtype in _FLOATS and not any(_unlike(a, dtype) for pair in layers for a in pair):
        return dtype, layers
    arrays = [np.asarray(a) for pair in layers for a in pair]
    dtype = np.result_type(X.dtype, *arrays)
    if dtype not in _FLOATS:
        dtype = np.dtype(np.float64)
    return dtype, [
        (W.astype(dtype, copy=False), np.ascontiguousarray(b, dtype=dtype))
        for W, b in zip(arrays[::2], arrays[1::2], strict=True)
    ]


def _by_layer(
    layers: Sequence[tuple[Array, Array]],
    activations: Sequence[Any],
    heads: Sequence[int],
    kernels: ModuleType,
) -> Compute:
    """Make what computes a block layer by layer, with the threads of the BLAS."""
    *hidden, output = activations
    functions = [kernels_of(activation, kernels)[0] for activation in hidden]
    if isinstance(output, str) and output in OUTPUT_ACTIVATIONS:
        functions.append(output_of(output, heads, kernels))
    else:
        functions.append(kernels_of(output, kernels)[0])
    buffers: list[Array] = []

    def compute(X: Any, out: Array) -> None:
        rows = len(out)
        if not buffers:
            buffers.extend(np.empty((rows, len(b)), out.dtype) for _, b in layers[:-1])
        zs = [*(buffer[:rows] for buffer in buffers), out]
        for (W, b), z, function in zip(layers, zs, functions, strict=True):
            if isinstance(X, np.ndarray):
                np.dot(X, W, out=z)
            else:
                np.copyto(z, X @ W)
            function(z, b)
            X = z

    return compute


def _can_share(
    X: Any, layers: Sequence[tuple[Array, Array]], activations: Sequence[Any]
) -> bool:
    """Whether a compiled pass that threads share is possible, and pays."""
    if X.shape[0] <= LEAST_ROWS or not isinstance(X, np.ndarray | EncodedRows):
        return False
    work = X.shape[0] * sum(W.size for W, _ in layers)
    if work < _WORTH_THREADS:
        return False
    known = kernel_sets.load("compiled").FORWARD
    return all(isinstance(name, str) and name in known for name in activations)


class _Fused:
    """Blocks of dense rows through all layers: compiled calls that threads share.

    Into how many blocks the rows are cut depends on their number and on the widths
    alone, so that the bits do not depend on the threads.
    """

    def __init__(
        self,
        X: Array | EncodedRows,
        layers: Sequence[tuple[Array, Array]],
        activations: Sequence[str],
        heads: Sequence[int],
        check: Callable[[], Any] | None,
    ) -> None:
        # Not above: numba takes its time to import.
        from skmlp.kernels import network, sync
        from skmlp.kernels.step_threads import StepThreads

        weights, biases = zip(*layers, strict=True)
        units = (X.shape[1], *map(len, biases))
        dtype, work = biases[0].dtype, sum(W.size for W in weights)
        wide = sum(units[1:-1])
        most = min(_MOST_ROWS, max(-(-len(X) // _LEAST_BLOCKS), LEAST_ROWS))
        self._most = max(min(most, BLOCK_NUMBERS // max(wide, 1)), LEAST_ROWS)
        # Rows that are to be converted or encoded are copied before.
        dense = isinstance(X, np.ndarray) and X.flags.c_contiguous
        copied = X.dtype != dtype or not dense
        size = min(rows_of_block(units[0] if copied else units[-1]), _PASS // work)
        #: Rows of a call.
        self.n_rows = max(size // self._most, 1) * self._most
        n_threads = min(usable_cores(), blas_threads_allowed() or 1)
        self._done, counters = 0, sync.counters(2)
        self._threads = StepThreads(n_threads, keep=counters)
        self._predict = network.predictor(
            dtype.name,
            activations[:-1],
            activations[-1],
            tiled=_MOST_ROWS * work * (dtype.itemsize // 4) <= SMALL_STEP,
        )
        *others, last = biases
        by_number = kernel_sets.load("compiled").activations.FORWARD
        if len(last) == 1 and activations[-1] in by_number:
            last = last.repeat(self._most)
        self._check, self._odd = check, np.zeros(1, np.int64)
        self._arrays = (
            np.array(units, np.int64),
            np.empty(0),  # no dropout
            np.array(heads, np.int64),
            np.concatenate([*map(np.ravel, weights), *others, last]),
            self._odd,
        )
        # Only the layers need room.
        sizes = [self._most * wide, *[0] * 7]
        self._room = network.room_for(sizes, self._most, n_threads, dtype)
        self._turns = n_threads, counters.ctypes.data

    def close(self) -> None:
        """End the threads."""
        self._threads.close()

    def __call__(self, X: Array, out: Array) -> None:
        X = np.require(X, requirements=["C", "A"])
        begin, end = self._done, self._done - (-len(out) // self._most)
        given = *self._arrays, X.ctypes.data, out, *self._room
        self._threads.run(self._predict, *given, (*self._turns, begin, end))
        self._done = end
        if self._check is not None and self._odd[0]:
            self._check()
            self._check = None  # only a sum is not finite


def rows_of_block(width: int) -> int:
    """So few rows that tables of this width stay small."""
    return max(BLOCK_NUMBERS // max(width, 1), LEAST_ROWS)


def row_blocks(n: int, width: int) -> list[slice]:
    """Slices of n rows, each of so few that tables of this width stay small."""
    size = rows_of_block(width)
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


def with_block(known: Any, part: Any, rows: slice, n: int) -> Any:
    """What is known of all n rows, with that of a block of them in its place."""
    if isinstance(part, list):
        known = known or [None] * len(part)
        return [with_block(k, p, rows, n) for k, p in zip(known, part, strict=True)]
    if part is None or len(part) == n:
        return part
    if known is None:
        known = np.empty((n, *part.shape[1:]), part.dtype)
    known[rows] = part
    return known


def _unlike(array: Any, dtype: np.dtype[Any]) -> bool:
    """Whether an array must be converted before the kernels can take it."""
    return (
        not isinstance(array, np.ndarray)
        or array.dtype != dtype
        or not (array.ndim == 2 or array.flags.c_contiguous)
    )
