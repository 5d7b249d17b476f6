"""The steps of the solvers that scikit-learn has not, compiled by numba.

Each function does what its namesake in `skmlp.kernels.reference_solvers` does. The
first loop of a step is over the parameters with a penalty.
"""

# mypy: disable-error-code="no-untyped-call, untyped-decorator"

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

from skmlp.kernels.compiled_updates import _norm, compiled

Array = np.ndarray[Any, np.dtype[Any]]

# Without reassociation, by which "b * v + (1 - b) * g" becomes "g + b * (v - g)": NaN
# instead of infinity. Only sums need it.
elementwise = njit(
    nogil=True, cache=True, error_model="numpy", fastmath={"contract", "nsz"}
)


@elementwise
def _make_gradient(
    params: Array, total: Array, n: int, alpha: float, divisor: float
) -> None:
    """Make `total` the gradient."""
    a, d = params.dtype.type(alpha), params.dtype.type(divisor)
    for i in range(n):
        total[i] += a * params[i]
    for i in range(total.size):
        total[i] /= d


@elementwise
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
    """One step of Adam with decoupled weight decay. See the reference."""
    real = params.dtype.type
    rate, eps = real(learning_rate), real(epsilon)
    b1, b2 = real(beta_1), real(beta_2)
    c1, c2 = real(1 - beta_1), real(1 - beta_2)
    kept = real(1 - shrink)
    norm = _norm(params, n_penalised)
    _make_gradient(params, total, n_penalised, alpha, divisor)
    for i in range(n_penalised):
        params[i] *= kept
    for i in range(params.size):
        g = total[i]
        m = b1 * first[i] + c1 * g
        v = b2 * second[i] + c2 * (g * g)
        first[i] = m
        second[i] = v
        params[i] -= rate * m / (np.sqrt(v) + eps)
    return norm


@elementwise
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
    """One step of Adam with Nesterov's look-ahead. See the reference."""
    real = params.dtype.type
    rate_g, rate_m, eps = real(rate_of_gradient), real(rate_of_moment), real(epsilon)
    b1, b2 = real(beta_1), real(beta_2)
    c1, c2 = real(1 - beta_1), real(1 - beta_2)
    norm = _norm(params, n_penalised)
    _make_gradient(params, total, n_penalised, alpha, divisor)
    for i in range(params.size):
        g = total[i]
        m = b1 * first[i] + c1 * g
        v = b2 * second[i] + c2 * (g * g)
        first[i] = m
        second[i] = v
        params[i] -= (rate_g * g + rate_m * m) / (np.sqrt(v) + eps)
    return norm


@elementwise
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
    """Divide by the root of a moving mean of squares. See the reference."""
    real = params.dtype.type
    rate, eps = real(learning_rate), real(epsilon)
    b, c = real(decay), real(1 - decay)
    norm = _norm(params, n_penalised)
    _make_gradient(params, total, n_penalised, alpha, divisor)
    for i in range(params.size):
        g = total[i]
        v = b * second[i] + c * (g * g)
        second[i] = v
        params[i] -= rate * g / (np.sqrt(v) + eps)
    return norm


@elementwise
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
    """Divide by the root of the sum of squares. See the reference."""
    real = params.dtype.type
    rate, eps = real(learning_rate), real(epsilon)
    norm = _norm(params, n_penalised)
    _make_gradient(params, total, n_penalised, alpha, divisor)
    for i in range(params.size):
        g = total[i]
        v = second[i] + g * g
        second[i] = v
        params[i] -= rate * g / (np.sqrt(v) + eps)
    return norm


# -- with any solver -------------------------------------------------------------------


@compiled
def gradient_norm(params: Array, total: Array, n_penalised: int, alpha: float) -> float:
    """Squared norm of ``total + alpha * params``. See the reference."""
    norm = 0.0
    for i in range(n_penalised):
        g = float(total[i]) + alpha * float(params[i])
        norm += g * g
    for i in range(n_penalised, total.size):
        g = float(total[i])
        norm += g * g
    return norm


@compiled
def absolute_sum(params: Array, n_penalised: int) -> float:
    """Sum of the absolute values of the first n."""
    total = 0.0
    for i in range(n_penalised):
        total += abs(float(params[i]))
    return total


@elementwise
def soft_threshold(
    params: Array, second: Array, n_penalised: int, threshold: float, epsilon: float
) -> None:
    """Move the first n towards 0, and not beyond. See the reference."""
    real = params.dtype.type
    zero, reach, eps = real(0), real(threshold), real(epsilon)
    for i in range(n_penalised):
        p = params[i]
        r = reach / (np.sqrt(second[i]) + eps) if second.size else reach
        params[i] = zero if abs(p) <= r else (p - r if p > zero else p + r)


@elementwise
def move_average(average: Array, params: Array, share: float) -> None:
    """``average += share * (params - average)``."""
    s = average.dtype.type(share)
    for i in range(average.size):
        average[i] += s * (params[i] - average[i])


STEP: dict[str, Callable[..., float]] = {
    "adamw": adamw_step,
    "nadam": nadam_step,
    "rmsprop": rmsprop_step,
    "adagrad": adagrad_step,
}
