"""Steps of the solvers on a segment of the flat vector, and what goes with any solver.

A step's gradient is ``(total + alpha * params) / divisor``, with alpha on the first
`n_penalised` alone. `numbers` change from step to step: see `DIVISOR` and its kin.
`settings` stay the same: alpha, then what `skmlp.optim.solvers` lists. A step updates
parameters and moments in place, spoils `total`, and returns the squared norm of the
first `n_penalised` parameters before it. The formulas are those of
`skmlp.optim.solvers`.
"""

# mypy: disable-error-code="no-untyped-call, untyped-decorator"

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from typing import Any

import numpy as np

from skmlp.kernels.jit import compiled, elementwise, inner

Array = np.ndarray[Any, np.dtype[Any]]

#: Places in a step's `numbers`: what the sums are divided by; the learning rate; the
#: count of the step from 1; the product of the momenta so far (of NAdam); how far the
#: L1 penalty moves a weight, times the divisor; the share of the new parameters in
#: their moving mean.
DIVISOR, RATE, COUNT, PRODUCT, THRESHOLD, SHARE = range(6)
N_NUMBERS = 6

#: Numbers that are added in their own precision before they go into a float64.
_CHUNK = 512


@inner
def penalised_norm(params: Array, n: int) -> float:
    """Squared norm of the first n."""
    norm, penalised = 0.0, params[:n]
    for start in range(0, n, _CHUNK):
        part = params.dtype.type(0)
        # A slice, so that indices start at 0: numba checks others for their sign.
        chunk = penalised[start : start + _CHUNK]
        for i in range(chunk.size):
            part += chunk[i] * chunk[i]
        norm += float(part)
    return norm


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


@inner
def corrected(numbers: Array, beta_1: float, beta_2: float) -> float:
    """The rate of Adam, whose moments begin at 0."""
    count = numbers[COUNT]
    rate: float = numbers[RATE] * sqrt(1.0 - beta_2**count) / (1.0 - beta_1**count)
    return rate


@compiled
def sgd_step(
    params: Array,
    total: Array,
    first: Array,
    second: Array,
    n_penalised: int,
    numbers: Array,
    settings: Array,
) -> float:
    """One step of gradient descent with momentum."""
    real = params.dtype.type
    alpha, momentum, nesterov = settings[0], settings[1], settings[2] != 0.0
    rate, mu = real(numbers[RATE] / numbers[DIVISOR]), real(momentum)
    decay = real(alpha * numbers[RATE] / numbers[DIVISOR])
    norm: float = penalised_norm(params, n_penalised)
    # v = mu * v - step; params += v, or with Nesterov mu * v - step.
    ahead, back = (mu, rate) if nesterov else (real(1), real(0))
    fade = decay if nesterov else real(0)
    for i in range(n_penalised):
        p, g = params[i], total[i]
        v = mu * first[i] - (rate * g + decay * p)
        first[i] = v
        params[i] = p + (ahead * v - (back * g + fade * p))
    for i in range(n_penalised, params.size):
        g = total[i]
        v = mu * first[i] - rate * g
        first[i] = v
        params[i] += ahead * v - back * g
    return norm


@compiled
def adam_step(
    params: Array,
    total: Array,
    first: Array,
    second: Array,
    n_penalised: int,
    numbers: Array,
    settings: Array,
) -> float:
    """One step of Adam."""
    real = params.dtype.type
    alpha, beta_1, beta_2 = settings[0], settings[1], settings[2]
    a, d = real(alpha / numbers[DIVISOR]), real(1 / numbers[DIVISOR])
    rate, eps = real(corrected(numbers, beta_1, beta_2)), real(settings[3])
    b1, b2 = real(beta_1), real(beta_2)
    c1, c2 = real(1 - beta_1), real(1 - beta_2)
    norm: float = penalised_norm(params, n_penalised)
    for i in range(n_penalised):
        p = params[i]
        g = total[i] * d + a * p
        m = b1 * first[i] + c1 * g
        v = b2 * second[i] + c2 * (g * g)
        first[i] = m
        second[i] = v
        params[i] = p - rate * m / (np.sqrt(v) + eps)
    for i in range(n_penalised, params.size):
        g = total[i] * d
        m = b1 * first[i] + c1 * g
        v = b2 * second[i] + c2 * (g * g)
        first[i] = m
        second[i] = v
        params[i] -= rate * m / (np.sqrt(v) + eps)
    return norm


@elementwise
def adamw_step(
    params: Array,
    total: Array,
    first: Array,
    second: Array,
    n_penalised: int,
    numbers: Array,
    settings: Array,
) -> float:
    """One step of Adam with decoupled weight decay."""
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
    n_penalised: int,
    numbers: Array,
    settings: Array,
) -> float:
    """One step of Adam with Nesterov's look-ahead."""
    real = params.dtype.type
    beta_1, beta_2, eps = settings[1], settings[2], real(settings[3])
    count, product = numbers[COUNT], numbers[PRODUCT]
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
    n_penalised: int,
    numbers: Array,
    settings: Array,
) -> float:
    """Divide by the root of a moving mean of squares."""
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
    n_penalised: int,
    numbers: Array,
    settings: Array,
) -> float:
    """Divide by the root of the sum of squares."""
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
    """Squared norm of ``total + alpha * params``."""
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
    """Move the first n towards 0, and not beyond."""
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


@compiled
def all_finite(flat: Array) -> bool:
    """Whether every number of a flat array is finite."""
    # Zero times a finite number is zero; times NaN or infinity it is NaN.
    broken = 0
    for i in range(flat.size):
        broken += 0 if abs(flat[i]) < np.inf else 1
    return broken == 0


STEP: dict[str, Callable[..., float]] = {
    "sgd": sgd_step,
    "adam": adam_step,
    "adamw": adamw_step,
    "nadam": nadam_step,
    "rmsprop": rmsprop_step,
    "adagrad": adagrad_step,
}
