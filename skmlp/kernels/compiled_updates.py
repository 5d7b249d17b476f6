"""The compiled kernels that know no activation: updates and sparse products.

They run without the GIL and are kept in numba's cache on disk. Reassociation lets the
compiler add in vectors; "no NaNs" and "no infinities" are never promised to it, so that
a run that diverges shows.
"""

# mypy: disable-error-code="no-untyped-call, untyped-decorator"

from __future__ import annotations

from math import sqrt
from typing import Any

import numpy as np
from numba.extending import register_jitable

from skmlp.kernels.cached import cached_njit

Array = np.ndarray[Any, np.dtype[Any]]

compiled = cached_njit(fastmath={"reassoc", "contract", "nsz"})

#: For what only other kernels call: Python has no way to the compiled function, which
#: saves a third of the time that it takes to compile.
inner: Any = register_jitable(
    no_cfunc_wrapper=True,
    error_model="numpy",
    fastmath={"reassoc", "contract", "nsz"},
)


@inner
def eps_of(table: Array) -> float:
    """What numpy's ``finfo(table.dtype).eps`` is, which takes long to compile."""
    return 2.0**-23 if table.itemsize == 4 else 2.0**-52


# -- products with some rows of a CSR matrix -------------------------------------------


@compiled
def csr_dot(
    data: Array, indices: Array, indptr: Array, rows: Array, W: Array, out: Array
) -> None:
    """``out = X[rows] @ W``. See the reference."""
    for i in range(rows.size):
        out[i, :] = 0
        for k in range(indptr[rows[i]], indptr[rows[i] + 1]):
            value = data[k]
            feature = indices[k]
            for j in range(out.shape[1]):
                out[i, j] += value * W[feature, j]


@compiled
def csr_transposed_dot(
    data: Array, indices: Array, indptr: Array, rows: Array, delta: Array, out: Array
) -> None:
    """``out = X[rows].T @ delta``. See the reference."""
    out[:, :] = 0
    for i in range(rows.size):
        for k in range(indptr[rows[i]], indptr[rows[i] + 1]):
            value = data[k]
            feature = indices[k]
            for j in range(out.shape[1]):
                out[feature, j] += value * delta[i, j]


# -- penalty and update, on a segment of the flat vector -------------------------------

#: Places in a step's `numbers`: what the sums are divided by, the rate, and the count.
DIVISOR, RATE, COUNT = range(3)

#: So many numbers are added in their own precision before they go into a float64.
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
    scratch: Array,
    n_penalised: int,
    numbers: Array,
    settings: Array,
) -> float:
    """One step of gradient descent with momentum. See the reference."""
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
    scratch: Array,
    n_penalised: int,
    numbers: Array,
    settings: Array,
) -> float:
    """One step of Adam. See the reference."""
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


@compiled
def all_finite(flat: Array) -> bool:
    """Whether every number of a flat array is finite."""
    # Zero times a finite number is zero; times NaN or infinity it is NaN.
    broken = 0
    for i in range(flat.size):
        broken += 0 if abs(flat[i]) < np.inf else 1
    return broken == 0
