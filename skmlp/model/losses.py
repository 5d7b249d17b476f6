"""The losses, by name, each with its output activation, and those that users bring.

A new loss is one entry here and its kernel in `skmlp.kernels`; an object of a user's
own needs neither, see `kernel_of`. A kernel writes the gradient with respect to the
last layer's raw predictions, times the row's weight.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from skmlp.kernels.reference_losses import finish

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Loss:
    """A loss together with its output activation.

    Attributes
    ----------
    name : str
        The name of its kernel.
    output : str
        The output activation, scikit-learn's ``out_activation_``.
    target : {"codes", "indicator", "heads", "real"}
        What `y` holds: one class index a row; a 0/1 matrix; a class index for each head
        of the output layer; real numbers.
    mean_over_outputs : bool
        The reported loss is the mean over the outputs, not their sum. The gradient is
        that of the sum in any case.
    takes : {"any", "not negative", "positive"}
        The targets that it is defined for.
    """

    name: str
    output: str
    target: str
    mean_over_outputs: bool = False
    takes: str = "any"


LOSSES = {
    loss.name: loss
    for loss in (
        Loss("softmax_log_loss", "softmax", "codes"),
        Loss("logistic_log_loss", "logistic", "indicator"),
        Loss("smoothed_softmax_log_loss", "softmax", "codes"),
        Loss("smoothed_logistic_log_loss", "logistic", "indicator"),
        Loss("softmax_heads_log_loss", "softmax_heads", "heads"),
        Loss("squared_error", "identity", "real", mean_over_outputs=True),
        Loss("absolute_error", "identity", "real", mean_over_outputs=True),
        Loss("huber", "identity", "real", mean_over_outputs=True),
        Loss("quantile", "identity", "real", mean_over_outputs=True),
        Loss("quantiles", "increasing", "real", mean_over_outputs=True),
        Loss("poisson", "exp", "real", takes="not negative"),
        Loss("gamma", "exp", "real", takes="positive"),
    )
}

#: What a user's own loss must have.
METHOD = "value_and_gradient"

#: The output activations that it may name.
OUTPUTS = ("identity", "logistic", "exp")


def entry(loss: Any) -> Loss:
    """The entry of a name, or one made for a user's own object."""
    if isinstance(loss, str):
        return LOSSES[loss]
    output = getattr(loss, "out_activation", "identity")
    return Loss(type(loss).__name__, output, "real")


def heads_of(loss: Any, settings: Sequence[float]) -> tuple[int, ...]:
    """The number of columns of each head of the output layer; () where it is one block.

    Parameters
    ----------
    loss : str or object
        See `kernel_of`.
    settings : sequence of float
        Of a loss of heads: the smoothing of labels, then these numbers.
    """
    if entry(loss).target != "heads":
        return ()
    return tuple(int(width) for width in settings[1:])


def output_of(
    output: str, heads: Sequence[int], kernels: ModuleType
) -> Callable[[Array, Array], None]:
    """The function ``forward(z, b)`` of an output activation.

    Parameters
    ----------
    output : str
        Its name, as in `Loss`.
    heads : sequence of int
        See `heads_of`.
    kernels : module
        The kernel set.
    """
    forward: Callable[..., None] = kernels.FORWARD[output]
    if not heads:
        return forward
    widths = np.array(heads, np.int64)

    def by_head(z: Array, b: Array) -> None:
        forward(z, b, widths)

    return by_head


def kernel_of(
    loss: Any,
    settings: Sequence[float],
    kernels: ModuleType,
    masked: bool = False,
) -> Callable[..., float]:
    """The function that computes a loss and its gradient.

    Parameters
    ----------
    loss : str or object
        A key of `LOSSES`, or an object with the method
        ``value_and_gradient(y, raw_prediction)``. Both arguments have the shape (rows,
        n_outputs), and so have the two arrays that it returns: the loss of each number,
        and its derivative with respect to the raw prediction.
    settings : sequence of float
        The loss's parameters; empty for none.
    kernels : module
        The kernel set.
    masked : bool
        Real targets that are NaN are missing, and add nothing.

    Returns
    -------
    callable
        See `skmlp.kernels.reference.softmax_log_loss`.
    """
    if isinstance(loss, str):
        kernel: Callable[..., float] = kernels.LOSS[loss]
        if settings:
            kernel = _with_settings(kernel, np.array(settings, np.float64))
        return Masked(kernel, kernels) if masked else kernel

    def of_user(
        z: Array, b: Array, y: Array, w: Array, grad_b: Array, scratch: Array
    ) -> float:
        z += b
        values, gradient = loss.value_and_gradient(y, z)
        if masked:
            missing = np.isnan(y)
            values = np.where(missing, 0, values)
            gradient = np.where(missing, 0, gradient)
        return finish(np.asarray(values), np.asarray(gradient), z, w, grad_b)

    return of_user


def _with_settings(
    kernel: Callable[..., float], settings: Array
) -> Callable[..., float]:
    def with_settings(*arguments: Array) -> float:
        return kernel(*arguments, settings)

    return with_settings


class Masked:
    """A loss of the known targets alone: those that are NaN add nothing.

    The loss's own kernel is handed the known numbers one below the other, as rows of
    one output. So each gets the value and the gradient that it has in any other place,
    and a new loss is masked as it is. Where all are known, nothing is moved.

    Parameters
    ----------
    kernel : callable
        See `skmlp.kernels.reference.softmax_log_loss`.
    kernels : module
        The kernel set.
    """

    def __init__(self, kernel: Callable[..., float], kernels: ModuleType) -> None:
        self._kernel, self._kernels = kernel, kernels
        self._known_z, self._scratch, self._known_y = (np.empty((0, 1)),) * 3
        self._known_w, self._no_bias, self._grad = (np.empty(0),) * 3

    def _make_room(self, n: int, width: int, dtype: np.dtype[Any]) -> None:
        self._known_z, self._scratch = (np.empty((n, width), dtype) for _ in range(2))
        self._known_y, self._known_w = np.empty((n, 1), dtype), np.empty(n, dtype)
        self._no_bias, self._grad = np.zeros(width, dtype), np.empty(width, dtype)

    def __call__(
        self, z: Array, b: Array, y: Array, w: Array, grad_b: Array, scratch: Array
    ) -> float:
        """See `skmlp.kernels.reference.softmax_log_loss`; `y` is 2-dimensional."""
        if len(self._known_z) < y.size:
            self._make_room(y.size, z.shape[1] // y.shape[1], z.dtype)
        known_w = self._known_w if w.size else w
        n = self._kernels.gather_known(
            z, b, y, w, self._known_z, self._known_y, known_w
        )
        if n == y.size:
            return self._kernel(z, b, y, w, grad_b, scratch)
        known = self._known_z[:n]
        loss = 0.0
        if n:
            loss = self._kernel(
                known,
                self._no_bias,
                self._known_y[:n],
                known_w[:n],
                self._grad,
                self._scratch[:n],
            )
        self._kernels.scatter_known(known, y, z, grad_b)
        return loss
