"""Forward and accumulate: what one minibatch does to a network's gradient.

The network holds no parameters. It works on views ``(W, b)`` of a flat vector, which
the caller owns (`skmlp.model.layout`), and on buffers that it allocates once.

For layer ``i`` with input ``a_i`` (``a_0`` is the minibatch):
``z_i = a_i W_i + b_i``, ``a_{i+1} = act(z_i)``; the last layer's is the output
activation. Backward, with ``d_i`` the gradient of the summed loss by ``z_i``:
``dW_i = a_i^T d_i``, ``db_i = sum of the rows of d_i``,
``d_{i-1} = (d_i W_i^T) * act'(z_{i-1})``. Nothing is divided here.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np

from skmlp import kernels as kernel_sets
from skmlp.arrays import Array
from skmlp.model.activations import kernels_of
from skmlp.model.dropout import Dropout
from skmlp.model.layout import Views
from skmlp.model.losses import entry, heads_of, kernel_of, output_of
from skmlp.model.rows import SparseRows

#: A function and its arguments.
Call = tuple[Callable[..., Any], tuple[Any, ...]]

#: Distinct row counts whose views are kept; a fit has one or two, rows that stay in
#: place on Dask some dozens.
_KEPT_PROGRAMS = 256

#: Multiply-adds of a step, those of float64 counted twice, from which on the threads of
#: the BLAS share its products: a larger one is cut only if every core gets a part.
SMALL_STEP = 6.5e6


class Network:
    """The computations of a multi-layer perceptron on one shard.

    `plan` is a `skmlp.plan.Plan`, or has its fields; `max_rows` is the most that a call
    brings. Dropout concerns the minibatches of a bound function, not `forward`. Weights
    of frozen layers get no gradient, and the pass goes back no further than to the
    lowest of the others. ``dot(A, B, out)`` multiplies where there is only a forward
    pass.
    """

    def __init__(
        self,
        plan: Any,
        max_rows: int,
        dropout: Dropout | None = None,
        dot: Callable[[Array, Array, Array], Any] = np.dot,
    ) -> None:
        self.layout, self._dropout, self._dot = plan.layout, dropout, dot
        loss, settings = plan.loss, plan.loss_settings
        kernels, dtype = kernel_sets.load(plan.kernels), np.dtype(plan.dtype)
        n_layers = len(plan.units) - 1
        self._trained = [i for i in range(n_layers) if i not in plan.frozen]
        hidden = [kernels_of(activation, kernels) for activation in plan.activation]
        output = output_of(entry(loss).output, heads_of(loss, settings), kernels)
        self._forward = [*(forward for forward, _, _ in hidden), output]
        self._deriving = [deriving for _, deriving, _ in hidden]
        self._backward = [backward for _, _, backward in hidden]
        self._loss = kernel_of(loss, settings, kernels, plan.masked)
        self._csr_dot = kernels.csr_dot
        self._csr_transposed_dot = kernels.csr_transposed_dot
        widths = plan.units[1:]
        self._layers = [np.empty((max_rows, width), dtype) for width in widths]
        self._deltas = [np.empty((max_rows, width), dtype) for width in widths[:-1]]
        # Kept where the derivative does not follow from the value.
        self._derivatives = [
            np.empty((max_rows if deriving else 0, width), dtype)
            for deriving, width in zip(self._deriving, widths[:-1], strict=True)
        ]

    def _buffers(self, rows: int) -> tuple[list[Array], list[Array]]:
        """Layers and deltas, cut to `rows`."""
        layers = [layer[:rows] for layer in self._layers]
        return layers, [delta[:rows] for delta in self._deltas]

    def bind(self, views: Views, out: Views) -> Accumulate:
        """Make the function that does a minibatch; it writes the gradient to `out`."""
        return Accumulate(self, views, out)

    def _times(self, X: Array | SparseRows, W: Array, out: Array) -> None:
        """Multiply some rows with the first weights."""
        if isinstance(X, SparseRows):
            self._csr_dot(*X.parts, X.rows, W, out)
        else:
            self._dot(X, W, out)

    def forward(self, views: Views, X: Array | SparseRows) -> Array:
        """Predictions of some rows, after the output activation; valid until the next
        call.
        """
        raw = self._raw(views, X)
        self._forward[-1](raw, views[-1][1])
        return raw

    def _raw(self, views: Views, X: Array | SparseRows) -> Array:
        """The products of the last layer, before its bias."""
        layers, _ = self._buffers(X.shape[0])
        self._times(X, views[0][0], layers[0])
        for i, (_, b) in enumerate(views[:-1]):
            self._forward[i](layers[i], b)
            self._dot(layers[i], views[i + 1][0], layers[i + 1])
        return layers[-1]

    def validate(
        self, views: Views, X: Array | SparseRows, y: Array, w: Array
    ) -> tuple[Array, float]:
        """Predictions of some rows, see `forward`, and their summed loss, from one
        pass.
        """
        raw, b = self._raw(views, X), views[-1][1]
        # The loss writes the gradient over what it is given.
        spoiled, gradient = raw.copy(), np.empty_like(b)
        loss: float = self._loss(spoiled, b, y, w, gradient)
        self._forward[-1](raw, b)
        return raw, loss


class Accumulate:
    """Forward and backward of some rows, bound to its parameters and its gradient.

    All calls of a count of rows are written down once, as a program of functions and
    their arguments: in the steps of a small net cutting the views each time would cost
    as much as computing.
    """

    def __init__(self, network: Network, views: Views, out: Views) -> None:
        self._network = network
        self._views = views
        self._out = out
        self._first, self._first_out = views[0][0], out[0][0]
        #: Whether the first weights get a gradient, and the lowest layer that has one.
        self._first_trained = 0 in network._trained
        self._lowest = min(network._trained, default=len(views))
        self._programs: dict[int, tuple[Any, ...]] = {}

    def _program(self, rows: int) -> tuple[Any, ...]:
        """All calls for so many rows, but for the first layer's products."""
        network, views, out = self._network, self._views, self._out
        layers, deltas = network._buffers(rows)
        last = len(views) - 1
        forward: list[Call] = []
        backward: list[Call] = []
        for i in range(last):
            z, b = layers[i], views[i][1]
            deriving = network._deriving[i]
            derived = z
            if deriving is None:
                forward.append((network._forward[i], (z, b)))
            else:
                derived = network._derivatives[i][:rows]
                forward.append((deriving, (z, b, derived)))
            seen, mask = z, None
            if network._dropout is not None:
                seen, mask, calls = network._dropout.layer(i + 1, z)
                forward += calls
            forward.append((seen.dot, (views[i + 1][0], layers[i + 1])))
            delta = layers[last] if i == last - 1 else deltas[i + 1]
            below = deltas[i]
            calls_back: list[Call] = []
            if i + 1 in network._trained:
                calls_back.append((seen.T.dot, (delta, out[i + 1][0])))
            if self._lowest <= i:
                calls_back.append((delta.dot, (views[i + 1][0].T, below)))
                if mask is not None:
                    calls_back.append((np.multiply, (below, mask, below)))
                arguments = (derived, below, out[i][1])
                calls_back.append((network._backward[i], arguments))
            backward[:0] = calls_back
        loss = (views[last][1], out[last][1])
        delta = deltas[0] if last else layers[0]
        program = (layers[0], forward, layers[last], loss, backward, delta)
        if len(self._programs) >= _KEPT_PROGRAMS:
            self._programs.clear()
        self._programs[rows] = program
        return program

    def __call__(self, X: Any, y: Array, w: Array) -> float:
        """Write the gradient of some rows' summed loss to `out`; return the loss.

        At least one row; `y` in the form that the loss takes; `w` is empty for none.
        """
        network, rows = self._network, X.shape[0]
        program = self._programs.get(rows) or self._program(rows)
        z, forward, end, (b, grad_b), backward, delta = program
        if network._dropout is not None:
            X = network._dropout.features(X)
        dense = type(X) is not SparseRows
        if dense:
            X.dot(self._first, z)
        else:
            network._csr_dot(*X.parts, X.rows, self._first, z)
        for call, arguments in forward:
            call(*arguments)
        loss: float = network._loss(end, b, y, w, grad_b)
        for call, arguments in backward:
            call(*arguments)
        if not self._first_trained:
            return loss
        if dense:
            X.T.dot(delta, self._first_out)
        else:
            network._csr_transposed_dot(*X.parts, X.rows, delta, self._first_out)
        return loss


def multiplications(units: tuple[int, ...]) -> int:
    """Multiply-adds that the step of one row costs: three per weight, less the first.

    Forward, gradient by the weights, and (but for the first layer) by the inputs.
    """
    products = [fan_in * fan_out for fan_in, fan_out in pairwise(units)]
    return 3 * sum(products) - products[0]


def work_of(units: tuple[int, ...], rows: int, dtype: str) -> int:
    """Multiply-adds of some rows' gradient; those of float64 count twice."""
    return multiplications(units) * rows * (2 if dtype == "float64" else 1)
