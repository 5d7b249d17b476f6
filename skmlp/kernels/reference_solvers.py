"""The steps of the solvers that scikit-learn has not, in numpy, and what goes with any.

Conventions as in `skmlp.kernels.reference`: a step works on a segment of the flat
vector, its gradient is ``g = (total + alpha * params) / divisor``, alpha only on the
first `n_penalised`, and it returns the squared norm of these before the step.
`epsilon` is added to the root of the second moment as it is, without correction, as in
scikit-learn's Adam.
"""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
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


def corrected(
    learning_rate: float, count: float, beta_1: float, beta_2: float
) -> float:
    """The rate of Adam, whose moments begin at 0."""
    rate = learning_rate * sqrt(1.0 - beta_2**count)
    return float(rate / (1.0 - beta_1**count))


def adamw_step(
    params: Array,
    total: Array,
    first: Array,
    second: Array,
    scratch: Array,
    n_penalised: int,
    numbers: Array,
    settings: Array,
) -> float:
    """One step of Adam after the weights were multiplied by ``1 - rate * decay``.

    `settings`: alpha, both decays of the moments, epsilon, and the decay.

    References
    ----------
    Loshchilov and Hutter, "Decoupled weight decay regularization", ICLR 2019.
    """
    divisor, learning_rate, count = numbers.tolist()
    alpha, beta_1, beta_2, epsilon, decay = settings.tolist()
    rate = corrected(learning_rate, count, beta_1, beta_2)
    norm = penalise(params, total, scratch, n_penalised, alpha, divisor)
    params[:n_penalised] *= params.dtype.type(1 - learning_rate * decay)
    _decay(first, total, beta_1)
    _decay(second, total * total, beta_2)
    real = params.dtype.type
    params -= real(rate) * first / (np.sqrt(second) + real(epsilon))
    return norm


def _momentum(count: float, beta_1: float) -> float:
    return float(beta_1 * (1.0 - 0.5 * 0.96 ** (count / 250.0)))


def nadam_step(
    params: Array,
    total: Array,
    first: Array,
    second: Array,
    scratch: Array,
    n_penalised: int,
    numbers: Array,
    settings: Array,
) -> float:
    """One step of Adam with Nesterov's look-ahead.

    `settings`: alpha, both decays, epsilon; and, for this function alone, up to which
    step the momenta are multiplied, and their product.

    References
    ----------
    Dozat, "Incorporating Nesterov momentum into Adam", ICLR workshop 2016.
    """
    divisor, learning_rate, count = numbers.tolist()
    alpha, beta_1, beta_2, epsilon, known, product = settings.tolist()
    if count < known:
        known, product = 0.0, 1.0
    while known < count:
        known += 1.0
        product *= _momentum(known, beta_1)
    settings[4:] = known, product
    now, ahead = _momentum(count, beta_1), _momentum(count + 1.0, beta_1)
    rate = learning_rate * sqrt(1.0 - beta_2**count)
    rate_of_gradient = rate * (1.0 - now) / (1.0 - product)
    rate_of_moment = rate * ahead / (1.0 - product * ahead)
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
    first: Array,
    second: Array,
    scratch: Array,
    n_penalised: int,
    numbers: Array,
    settings: Array,
) -> float:
    """Divide the gradient by the root of a moving mean of its squares.

    `settings`: alpha, the decay of the mean, and epsilon.

    References
    ----------
    Tieleman and Hinton, "Neural networks for machine learning", lecture 6.5, 2012.
    """
    divisor, learning_rate, _ = numbers.tolist()
    alpha, decay, epsilon = settings.tolist()
    norm = penalise(params, total, scratch, n_penalised, alpha, divisor)
    _decay(second, total * total, decay)
    real = params.dtype.type
    params -= real(learning_rate) * total / (np.sqrt(second) + real(epsilon))
    return norm


def adagrad_step(
    params: Array,
    total: Array,
    first: Array,
    second: Array,
    scratch: Array,
    n_penalised: int,
    numbers: Array,
    settings: Array,
) -> float:
    """Divide the gradient by the root of the sum of its squares so far.

    `settings`: alpha and epsilon.

    References
    ----------
    Duchi, Hazan and Singer, "Adaptive subgradient methods for online learning and
    stochastic optimization", JMLR 12, 2011.
    """
    divisor, learning_rate, _ = numbers.tolist()
    alpha, epsilon = settings.tolist()
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
