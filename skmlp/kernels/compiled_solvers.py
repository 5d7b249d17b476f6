"""The steps of the solvers that scikit-learn has not, compiled by numba.

Each function does what its namesake in `skmlp.kernels.reference_solvers` does. The
first loop of a step is over the parameters with a penalty.
"""

# mypy: disable-error-code="no-untyped-call, untyped-decorator"

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from typing import Any

import numpy as np

from skmlp.kernels.cached import cached_njit
from skmlp.kernels.compiled_updates import (
    COUNT,
    DIVISOR,
    RATE,
    compiled,
    corrected,
    inner,
    penalised_norm,
)

Array = np.ndarray[Any, np.dtype[Any]]

# Without reassociation, by which "b * v + (1 - b) * g" becomes "g + b * (v - g)": NaN
# instead of infinity. Only sums need it.
elementwise = cached_njit(fastmath={"contract", "nsz"})


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
    numbers: Array,
    settings: Array,
) -> float:
    """One step of Adam with decoupled weight decay. See the reference."""
    real = params.dtype.type
    beta_1, beta_2 = settings[1], settings[2]
    rate, eps = real(corrected(numbers, beta_1, beta_2)), real(settings[3])
    b1, b2 = real(beta_1), real(beta_2)
    c1, c2 = real(1 - beta_1), real(1 - beta_2)
    kept = real(1 - numbers[RATE] * settings[4])
    norm: float = penalised_norm(params, n_penalised)
    _make_gradient(params, total, n_penalised, settings[0], numbers[DIVISOR])
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


@inner
def _momentum(count: float, beta_1: float) -> float:
    """That of a step of NAdam."""
    momentum: float = beta_1 * (1.0 - 0.5 * 0.96 ** (count / 250.0))
    return momentum


@elementwise
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
    """One step of Adam with Nesterov's look-ahead. See the reference."""
    real = params.dtype.type
    beta_1, beta_2, eps = settings[1], settings[2], real(settings[3])
    count = numbers[COUNT]
    if count < settings[4]:
        settings[4], settings[5] = 0.0, 1.0
    while settings[4] < count:
        settings[4] += 1.0
        settings[5] *= _momentum(settings[4], beta_1)
    product = settings[5]
    now, ahead = _momentum(count, beta_1), _momentum(count + 1.0, beta_1)
    rate = numbers[RATE] * sqrt(1.0 - beta_2**count)
    rate_g = real(rate * (1.0 - now) / (1.0 - product))
    rate_m = real(rate * ahead / (1.0 - product * ahead))
    b1, b2 = real(beta_1), real(beta_2)
    c1, c2 = real(1 - beta_1), real(1 - beta_2)
    norm: float = penalised_norm(params, n_penalised)
    _make_gradient(params, total, n_penalised, settings[0], numbers[DIVISOR])
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
    first: Array,
    second: Array,
    scratch: Array,
    n_penalised: int,
    numbers: Array,
    settings: Array,
) -> float:
    """Divide by the root of a moving mean of squares. See the reference."""
    real = params.dtype.type
    rate, eps = real(numbers[RATE]), real(settings[2])
    b, c = real(settings[1]), real(1 - settings[1])
    norm: float = penalised_norm(params, n_penalised)
    _make_gradient(params, total, n_penalised, settings[0], numbers[DIVISOR])
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
    first: Array,
    second: Array,
    scratch: Array,
    n_penalised: int,
    numbers: Array,
    settings: Array,
) -> float:
    """Divide by the root of the sum of squares. See the reference."""
    real = params.dtype.type
    rate, eps = real(numbers[RATE]), real(settings[1])
    norm: float = penalised_norm(params, n_penalised)
    _make_gradient(params, total, n_penalised, settings[0], numbers[DIVISOR])
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
