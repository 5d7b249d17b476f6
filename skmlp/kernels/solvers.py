"""Steps of the solvers on a segment of the flat vector, and what goes with any solver.

A step's gradient is ``(total + alpha * params) / divisor``, with alpha on the first
`n_penalised` alone. `numbers` change from step to step: see `DIVISOR` and its kin.
`settings` stay the same: alpha, then what `skmlp.optim.solvers` lists. A step updates
parameters and moments in place, spoils `total`, and returns the squared norm of the
first `n_penalised` parameters before it. The formulas are those of
`skmlp.optim.solvers`.
"""

# mypy cannot see what numba infers.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

from collections.abc import Callable
from math import sqrt

import numpy as np

from skmlp.arrays import Array
from skmlp.kernels.jit import compiled, elementwise, inner, named

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


def _step_of(
    constants: Callable[..., tuple[float, ...]],
    rule: Callable[..., float],
    decays: bool = False,
) -> Callable[..., float]:
    """Make the kernel of a solver.

    ``constants(params, numbers, settings)`` are those of the step, in the dtype of the
    parameters. ``rule(c, g, first, second, i)`` updates the moments of a parameter,
    whose gradient is g, and returns what is added to it.
    """

    def step(
        params: Array,
        total: Array,
        first: Array,
        second: Array,
        n_penalised: int,
        numbers: Array,
        settings: Array,
    ) -> float:
        real = params.dtype.type
        norm: float = penalised_norm(params, n_penalised)
        c = constants(params, numbers, settings)
        d, a = real(1 / numbers[DIVISOR]), real(settings[0] / numbers[DIVISOR])
        kept = real(1 - numbers[RATE] * settings[4]) if decays else real(1)
        for i in range(n_penalised):
            p = params[i]
            params[i] = kept * p + rule(c, total[i] * d + a * p, first, second, i)
        for i in range(n_penalised, params.size):
            params[i] += rule(c, total[i] * d, first, second, i)
        return norm

    kernel: Callable[..., float] = elementwise(
        named(step, rule, "_decays" if decays else "")
    )
    return kernel


@inner
def _constants_of_sgd(params, numbers, settings):
    real = params.dtype.type
    rate, momentum = real(numbers[RATE]), real(settings[1])
    # Nesterov's step goes on from where the momentum leads.
    ahead, back = (momentum, rate) if settings[2] != 0.0 else (real(1), real(0))
    return rate, momentum, ahead, back


@inner
def _sgd(c, g, first, second, i):
    rate, momentum, ahead, back = c
    v = momentum * first[i] - rate * g
    first[i] = v
    return ahead * v - back * g


@inner
def _constants_of_adam(params, numbers, settings):
    real, count = params.dtype.type, numbers[COUNT]
    beta_1, beta_2 = settings[1], settings[2]
    rate = numbers[RATE] * sqrt(1.0 - beta_2**count) / (1.0 - beta_1**count)
    kept_1, kept_2 = real(beta_1), real(beta_2)
    return (
        kept_1,
        real(1 - beta_1),
        kept_2,
        real(1 - beta_2),
        real(rate),
        real(settings[3]),
    )


@inner
def _adam(c, g, first, second, i):
    b1, c1, b2, c2, rate, epsilon = c
    m = b1 * first[i] + c1 * g
    v = b2 * second[i] + c2 * (g * g)
    first[i] = m
    second[i] = v
    return -(rate * m) / (np.sqrt(v) + epsilon)


@inner
def _momentum(count, beta_1):
    """Compute that of a step of NAdam."""
    return beta_1 * (1.0 - 0.5 * 0.96 ** (count / 250.0))


@inner
def _constants_of_nadam(params, numbers, settings):
    real, count, product = params.dtype.type, numbers[COUNT], numbers[PRODUCT]
    beta_1, beta_2 = settings[1], settings[2]
    now, ahead = _momentum(count, beta_1), _momentum(count + 1.0, beta_1)
    rate = numbers[RATE] * sqrt(1.0 - beta_2**count)
    rate_g = real(rate * (1.0 - now) / (1.0 - product))
    rate_m = real(rate * ahead / (1.0 - product * ahead))
    kept = real(beta_1), real(1 - beta_1), real(beta_2), real(1 - beta_2)
    return (*kept, rate_g, rate_m, real(settings[3]))


@inner
def _nadam(c, g, first, second, i):
    b1, c1, b2, c2, rate_g, rate_m, epsilon = c
    m = b1 * first[i] + c1 * g
    v = b2 * second[i] + c2 * (g * g)
    first[i] = m
    second[i] = v
    return -(rate_g * g + rate_m * m) / (np.sqrt(v) + epsilon)


@inner
def _constants_of_rmsprop(params, numbers, settings):
    real, rho = params.dtype.type, settings[1]
    return real(numbers[RATE]), real(rho), real(1 - rho), real(settings[2])


@inner
def _rmsprop(c, g, first, second, i):
    rate, kept, new, epsilon = c
    v = kept * second[i] + new * (g * g)
    second[i] = v
    return -(rate * g) / (np.sqrt(v) + epsilon)


@inner
def _constants_of_adagrad(params, numbers, settings):
    return params.dtype.type(numbers[RATE]), params.dtype.type(settings[1])


@inner
def _adagrad(c, g, first, second, i):
    rate, epsilon = c
    v = second[i] + g * g
    second[i] = v
    return -(rate * g) / (np.sqrt(v) + epsilon)


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
    "sgd": _step_of(_constants_of_sgd, _sgd),
    "adam": _step_of(_constants_of_adam, _adam),
    "adamw": _step_of(_constants_of_adam, _adam, decays=True),
    "nadam": _step_of(_constants_of_nadam, _nadam),
    "rmsprop": _step_of(_constants_of_rmsprop, _rmsprop),
    "adagrad": _step_of(_constants_of_adagrad, _adagrad),
}
