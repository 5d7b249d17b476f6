"""The fused loops of the step, in numpy: the readable reference.

Conventions
-----------
Everything is in place or into a buffer that is handed in; nothing of the size of a
minibatch or of the parameters is allocated. ``z``, ``a`` and ``delta`` are C-contiguous
arrays of shape (rows, width); ``scratch`` is one of the same size and dtype whose
content means nothing. ``w`` has shape (rows,), or (0,) for rows without weights.

NaN and infinity go through: a run that diverges must show.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import sparse

from skmlp.kernels import reference_activations as more_activations
from skmlp.kernels import reference_losses as more_losses
from skmlp.kernels import reference_solvers as more_solvers
from skmlp.kernels.reference_activations import scaled_backward
from skmlp.kernels.reference_dropout import csr_dropout, dropout_mask
from skmlp.kernels.reference_missing import gather_known, scatter_known
from skmlp.kernels.reference_solvers import (
    absolute_sum,
    gradient_norm,
    move_average,
    penalise,
    soft_threshold,
)
from skmlp.kernels.special import expit, xlogy

Array = np.ndarray[Any, np.dtype[Any]]

__all__ = [
    "BACKWARD",
    "DERIVING",
    "FORWARD",
    "LOSS",
    "STEP",
    "absolute_sum",
    "all_finite",
    "csr_dot",
    "csr_dropout",
    "csr_transposed_dot",
    "dropout_mask",
    "gather_known",
    "gradient_norm",
    "move_average",
    "name",
    "needs_scratch",
    "scaled_backward",
    "scatter_known",
    "soft_threshold",
]

name = "reference"
#: Whether the kernels use `scratch` at all.
needs_scratch = True


def _mask(scratch: Array, shape: tuple[int, ...]) -> Array:
    """View the memory of `scratch` as booleans."""
    size = int(np.prod(shape))
    return scratch.reshape(-1).view(np.bool_)[:size].reshape(shape)


# -- hidden layers: bias and activation ------------------------------------------------


def identity_forward(z: Array, b: Array) -> None:
    """``z + b``."""
    z += b


def logistic_forward(z: Array, b: Array) -> None:
    """``1 / (1 + exp(-(z + b)))``."""
    z += b
    expit(z, out=z)


def tanh_forward(z: Array, b: Array) -> None:
    """``tanh(z + b)``."""
    z += b
    np.tanh(z, out=z)


def relu_forward(z: Array, b: Array) -> None:
    """``max(z + b, 0)``."""
    z += b
    np.maximum(z, 0, out=z)


# -- hidden layers: the derivative, from the activation's own value ----------------


def identity_backward(a: Array, delta: Array, grad_b: Array, scratch: Array) -> None:
    """Only sum `delta` over the rows into `grad_b`."""
    delta.sum(axis=0, out=grad_b)


def logistic_backward(a: Array, delta: Array, grad_b: Array, scratch: Array) -> None:
    """``delta * a * (1 - a)``."""
    delta *= a
    np.subtract(1, a, out=scratch)
    delta *= scratch
    delta.sum(axis=0, out=grad_b)


def tanh_backward(a: Array, delta: Array, grad_b: Array, scratch: Array) -> None:
    """``delta * (1 - a^2)``."""
    np.multiply(a, a, out=scratch)
    np.subtract(1, scratch, out=scratch)
    delta *= scratch
    delta.sum(axis=0, out=grad_b)


def relu_backward(a: Array, delta: Array, grad_b: Array, scratch: Array) -> None:
    """``delta`` where the unit is active, else 0."""
    off = _mask(scratch, a.shape)
    np.equal(a, 0, out=off)
    np.copyto(delta, 0, where=off)
    delta.sum(axis=0, out=grad_b)


# -- output layer: bias and activation -------------------------------------------------


def exp_forward(z: Array, b: Array) -> None:
    """``exp(z + b)``."""
    z += b
    np.exp(z, out=z)


def softmax_forward(z: Array, b: Array) -> None:
    """Softmax of ``z + b`` over the columns."""
    z += b
    z -= z.max(axis=1, keepdims=True)
    np.exp(z, out=z)
    z /= z.sum(axis=1, keepdims=True)


# -- output layer: loss and its gradient -----------------------------------------------


def _finish(z: Array, w: Array, grad_b: Array) -> None:
    """Weigh the rows of the gradient and sum them for the bias."""
    if w.size:
        z *= w[:, None]
    z.sum(axis=0, out=grad_b)


def _total(losses: Array, w: Array) -> float:
    """Sum the rows' losses by weight, in float64."""
    if w.size:
        return float(np.dot(losses.astype(np.float64, copy=False), w))
    return float(losses.sum(dtype=np.float64))


def softmax_log_loss(
    z: Array, b: Array, y: Array, w: Array, grad_b: Array, scratch: Array
) -> float:
    """Cross entropy of the softmax.

    Parameters
    ----------
    z : ndarray of shape (rows, n_classes)
        ``a @ W`` of the last layer; becomes the gradient by the raw predictions.
    b : ndarray of shape (n_classes,)
        The bias.
    y : ndarray of shape (rows,), integer
        The class index of each row.
    w : ndarray of shape (rows,) or (0,)
        Weights.
    grad_b : ndarray of shape (n_classes,)
        Becomes the sum of the gradient over the rows.
    scratch : ndarray
        See the module.

    Returns
    -------
    float
        Sum over the rows of weight times loss.
    """
    softmax_forward(z, b)
    rows = np.arange(z.shape[0])
    eps = np.finfo(z.dtype).eps
    p = z[rows, y]
    z[rows, y] -= 1
    loss = _total(-np.log(np.clip(p, eps, 1 - eps)), w)
    _finish(z, w, grad_b)
    return loss


def logistic_log_loss(
    z: Array, b: Array, y: Array, w: Array, grad_b: Array, scratch: Array
) -> float:
    """Binary cross entropy of the logistic function, summed over the columns.

    As `softmax_log_loss`; `y` is a 0/1 matrix of the shape of `z`.
    """
    logistic_forward(z, b)
    eps = np.finfo(z.dtype).eps
    p = np.clip(z, eps, 1 - eps, out=scratch)
    np.subtract(1, p, out=p, where=(y == 0))
    np.log(p, out=p)
    loss = _total(-p.sum(axis=1, dtype=np.float64), w)
    z -= y
    _finish(z, w, grad_b)
    return loss


def squared_error(
    z: Array, b: Array, y: Array, w: Array, grad_b: Array, scratch: Array
) -> float:
    """Half the squared error, summed over the columns. As `softmax_log_loss`."""
    z += b
    z -= y
    np.multiply(z, z, out=scratch)
    loss = 0.5 * _total(scratch.sum(axis=1, dtype=np.float64), w)
    _finish(z, w, grad_b)
    return loss


def poisson(
    z: Array, b: Array, y: Array, w: Array, grad_b: Array, scratch: Array
) -> float:
    """Half the Poisson deviance, summed over the columns. As `softmax_log_loss`."""
    exp_forward(z, b)
    np.divide(y, z, out=scratch)
    xlogy(y, scratch, out=scratch)
    z -= y
    scratch += z
    loss = _total(scratch.sum(axis=1, dtype=np.float64), w)
    _finish(z, w, grad_b)
    return loss


# -- products with some rows of a CSR matrix -------------------------------------------


def csr_dot(
    data: Array, indices: Array, indptr: Array, rows: Array, W: Array, out: Array
) -> None:
    """``out = X[rows] @ W`` without a dense copy of the rows.

    Parameters
    ----------
    data, indices, indptr : ndarray
        The CSR matrix ``X`` of shape (n, n_features).
    rows : ndarray of shape (rows,), intp
        Row numbers.
    W : ndarray of shape (n_features, width)
        The weights.
    out : ndarray of shape (rows, width)
        Overwritten.
    """
    X = sparse.csr_array((data, indices, indptr), shape=(len(indptr) - 1, len(W)))
    np.copyto(out, X[rows] @ W)


def csr_transposed_dot(
    data: Array, indices: Array, indptr: Array, rows: Array, delta: Array, out: Array
) -> None:
    """``out = X[rows].T @ delta``; see `csr_dot`."""
    X = sparse.csr_array((data, indices, indptr), shape=(len(indptr) - 1, len(out)))
    np.copyto(out, X[rows].T @ delta)


# -- penalty and update, on a segment of the flat vector -------------------------------


def sgd_step(
    params: Array,
    total: Array,
    first: Array,
    second: Array,
    scratch: Array,
    n_penalised: int,
    numbers: Array,
    settings: Array,
) -> float:
    """One step of gradient descent with momentum.

    `numbers` are those of a step: what `total` is divided by, the learning rate, and
    the count of the step from 1. `settings` stay the same: alpha, the momentum, and
    whether it is Nesterov's.

    ``v = momentum * v - lr * g``, and ``params += v``, or with Nesterov's look-ahead
    ``params += momentum * v - lr * g``, where
    ``g = (total + alpha * params) / divisor``; alpha only on the first `n_penalised`.

    Returns
    -------
    float
        Squared norm of the first `n_penalised` parameters before the step.
    """
    divisor, learning_rate, _ = numbers.tolist()
    alpha, momentum, nesterov = settings.tolist()
    norm = penalise(params, total, scratch, n_penalised, alpha, divisor)
    total *= learning_rate
    first *= momentum
    first -= total
    if nesterov:
        np.multiply(first, momentum, out=scratch)
        scratch -= total
        params += scratch
    else:
        params += first
    return norm


def adam_step(
    params: Array,
    total: Array,
    first: Array,
    second: Array,
    scratch: Array,
    n_penalised: int,
    numbers: Array,
    settings: Array,
) -> float:
    """One step of Adam, on the gradient of `sgd_step`.

    `settings` are alpha, both decays, and epsilon, which is the "epsilon hat" of
    section 2 of Kingma and Ba, "Adam: A method for stochastic optimization", ICLR 2015,
    as in scikit-learn.

    Returns
    -------
    float
        Squared norm of the first `n_penalised` parameters before the step.
    """
    divisor, learning_rate, count = numbers.tolist()
    alpha, beta_1, beta_2, epsilon = settings.tolist()
    rate = more_solvers.corrected(learning_rate, count, beta_1, beta_2)
    norm = penalise(params, total, scratch, n_penalised, alpha, divisor)
    first *= beta_1
    np.multiply(total, 1 - beta_1, out=scratch)
    first += scratch
    second *= beta_2
    np.multiply(total, total, out=scratch)
    scratch *= 1 - beta_2
    second += scratch
    np.sqrt(second, out=scratch)
    scratch += epsilon
    np.divide(first, scratch, out=scratch)
    scratch *= rate
    params -= scratch
    return norm


def all_finite(flat: Array) -> bool:
    """Whether every number of a flat array is finite."""
    return bool(np.isfinite(flat).all())


FORWARD: dict[str, Callable[..., None]] = {
    "identity": identity_forward,
    "logistic": logistic_forward,
    "tanh": tanh_forward,
    "relu": relu_forward,
    "exp": exp_forward,
    "softmax": softmax_forward,
    "softmax_heads": more_losses.softmax_heads_forward,
    "increasing": more_losses.increasing_forward,
    **more_activations.FORWARD,
}
#: The activation and, into a buffer, its derivative, which does not follow from it.
DERIVING: dict[str, Callable[..., None]] = more_activations.DERIVING
BACKWARD: dict[str, Callable[..., None]] = {
    "identity": identity_backward,
    "logistic": logistic_backward,
    "tanh": tanh_backward,
    "relu": relu_backward,
    **more_activations.BACKWARD,
}
LOSS: dict[str, Callable[..., float]] = {
    "softmax_log_loss": softmax_log_loss,
    "logistic_log_loss": logistic_log_loss,
    "squared_error": squared_error,
    "poisson": poisson,
    **more_losses.LOSS,
}
STEP: dict[str, Callable[..., float]] = {
    "sgd": sgd_step,
    "adam": adam_step,
    **more_solvers.STEP,
}
