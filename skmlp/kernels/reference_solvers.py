"""The steps of the solvers that scikit-learn has not, in numpy, and what goes with any.

Conventions as in `skmlp.kernels.reference`: a step works on a segment of the flat
vector, its gradient is ``g = (total + alpha * params) / divisor``, alpha only on the
first `n_penalised`, and it returns the squared norm of these before the step.
`epsilon` is added to the root of the second moment as it is, without correction, as in
scikit-learn's Adam.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


def penalise(
    params: Array, total: Array, scratch: Array, n: int, alpha: float, divisor: float
) -> float:
    """Make `total` the gradient; return the squared norm of the first n params."""
    weights = params[:n]
    np.multiply(weights, alpha, out=scratch[:n])
    total[:n] += scratch[:n]
    total /= divisor
    return float(np.dot(weights, weights))


def _decay(moment: Array, new: Array, beta: float) -> None:
    """``moment = beta * moment + (1 - beta) * new``."""
    moment *= moment.dtype.type(beta)
    moment += moment.dtype.type(1 - beta) * new


def adamw_step(
    params: Array,
    total: Array,
    first: Array,
    second: Array,
    scratch: Array,
    n_penalised: int,
    alpha: float,
    divisor: float,
    learning_rate: float,
    beta_1: float,
    beta_2: float,
    epsilon: float,
    shrink: float,
) -> float:
    """One step of Adam after the weights were multiplied by ``1 - shrink``.

    References
    ----------
    Loshchilov and Hutter, "Decoupled weight decay regularization", ICLR 2019.
    """
    norm = penalise(params, total, scratch, n_penalised, alpha, divisor)
    params[:n_penalised] *= params.dtype.type(1 - shrink)
    _decay(first, total, beta_1)
    _decay(second, total * total, beta_2)
    real = params.dtype.type
    params -= real(learning_rate) * first / (np.sqrt(second) + real(epsilon))
    return norm


def nadam_step(
    params: Array,
    total: Array,
    first: Array,
    second: Array,
    scratch: Array,
    n_penalised: int,
    alpha: float,
    divisor: float,
    rate_of_gradient: float,
    rate_of_moment: float,
    beta_1: float,
    beta_2: float,
    epsilon: float,
) -> float:
    """One step of Adam with Nesterov's look-ahead.

    References
    ----------
    Dozat, "Incorporating Nesterov momentum into Adam", ICLR workshop 2016.
    """
    norm = penalise(params, total, scratch, n_penalised, alpha, divisor)
    _decay(first, total, beta_1)
    _decay(second, total * total, beta_2)
    real = params.dtype.type
    ahead = real(rate_of_gradient) * total + real(rate_of_moment) * first
    params -= ahead / (np.sqrt(second) + real(epsilon))
    return norm


def rmsprop_step(
    params: Array,
    total: Array,
    second: Array,
    scratch: Array,
    n_penalised: int,
    alpha: float,
    divisor: float,
    learning_rate: float,
    decay: float,
    epsilon: float,
) -> float:
    """Divide the gradient by the root of a moving mean of its squares.

    References
    ----------
    Tieleman and Hinton, "Neural networks for machine learning", lecture 6.5, 2012.
    """
    norm = penalise(params, total, scratch, n_penalised, alpha, divisor)
    _decay(second, total * total, decay)
    real = params.dtype.type
    params -= real(learning_rate) * total / (np.sqrt(second) + real(epsilon))
    return norm


def adagrad_step(
    params: Array,
    total: Array,
    second: Array,
    scratch: Array,
    n_penalised: int,
    alpha: float,
    divisor: float,
    learning_rate: float,
    epsilon: float,
) -> float:
    """Divide the gradient by the root of the sum of its squares so far.

    References
    ----------
    Duchi, Hazan and Singer, "Adaptive subgradient methods for online learning and
    stochastic optimization", JMLR 12, 2011.
    """
    norm = penalise(params, total, scratch, n_penalised, alpha, divisor)
    second += total * total
    real = params.dtype.type
    params -= real(learning_rate) * total / (np.sqrt(second) + real(epsilon))
    return norm


# -- with any solver -------------------------------------------------------------------


def gradient_norm(params: Array, total: Array, n_penalised: int, alpha: float) -> float:
    """Squared norm of ``total + alpha * params``, alpha on the first n alone."""
    gradient = total.astype(np.float64)
    gradient[:n_penalised] += alpha * params[:n_penalised]
    return float(np.dot(gradient, gradient))


def absolute_sum(params: Array, n_penalised: int) -> float:
    """Sum of the absolute values of the first n."""
    return float(np.abs(params[:n_penalised]).sum(dtype=np.float64))


def soft_threshold(
    params: Array, second: Array, n_penalised: int, threshold: float, epsilon: float
) -> None:
    """Move the first n towards 0, and not beyond: the proximal step of an L1 penalty.

    By `threshold`, divided by ``sqrt(second) + epsilon`` if `second` is not empty: so
    far as a gradient of size 1 would move them.
    """
    weights = params[:n_penalised]
    reach: Any = weights.dtype.type(threshold)
    if second.size:
        root = np.sqrt(second[:n_penalised]) + weights.dtype.type(epsilon)
        reach = reach / root
    # NaN stays NaN.
    np.copyto(
        weights,
        np.where(
            np.abs(weights) <= reach, 0, weights - np.copysign(reach, weights)
        ).astype(weights.dtype),
    )


def move_average(average: Array, params: Array, share: float) -> None:
    """``average += share * (params - average)``."""
    average += average.dtype.type(share) * (params - average)


STEP: dict[str, Callable[..., float]] = {
    "adamw": adamw_step,
    "nadam": nadam_step,
    "rmsprop": rmsprop_step,
    "adagrad": adagrad_step,
}
