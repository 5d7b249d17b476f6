"""The compiled kernels that know no activation: updates and sparse products.

They run without the GIL and are kept in numba's cache on disk. Reassociation lets the
compiler add in vectors; "no NaNs" and "no infinities" are never promised to it, so that
a run that diverges shows.
"""

# mypy: disable-error-code="no-untyped-call, untyped-decorator"

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

Array = np.ndarray[Any, np.dtype[Any]]

compiled = njit(
    nogil=True,
    cache=True,
    error_model="numpy",
    fastmath={"reassoc", "contract", "nsz"},
)


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


#: So many numbers are added in their own precision before they go into a float64.
_CHUNK = 512


@compiled
def _norm(params: Array, n: int) -> float:
    """Squared norm of the first n."""
    norm = 0.0
    for start in range(0, n, _CHUNK):
        part = params.dtype.type(0)
        # A slice, so that indices start at 0: numba checks others for their sign.
        chunk = params[start : min(start + _CHUNK, n)]
        for i in range(chunk.size):
            part += chunk[i] * chunk[i]
        norm += float(part)
    return norm


@compiled
def sgd_step(
    params: Array,
    total: Array,
    velocity: Array,
    scratch: Array,
    n_penalised: int,
    alpha: float,
    divisor: float,
    learning_rate: float,
    momentum: float,
    nesterov: bool,
) -> float:
    """One step of gradient descent with momentum. See the reference."""
    real = params.dtype.type
    rate, mu = real(learning_rate / divisor), real(momentum)
    decay = real(alpha * learning_rate / divisor)
    norm = _norm(params, n_penalised)
    # v = mu * v - step; params += v, or with Nesterov mu * v - step.
    ahead, back = (mu, rate) if nesterov else (real(1), real(0))
    fade = decay if nesterov else real(0)
    for i in range(n_penalised):
        p, g = params[i], total[i]
        v = mu * velocity[i] - (rate * g + decay * p)
        velocity[i] = v
        params[i] = p + (ahead * v - (back * g + fade * p))
    for i in range(n_penalised, params.size):
        g = total[i]
        v = mu * velocity[i] - rate * g
        velocity[i] = v
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
    alpha: float,
    divisor: float,
    learning_rate: float,
    beta_1: float,
    beta_2: float,
    epsilon: float,
) -> float:
    """One step of Adam. See the reference."""
    real = params.dtype.type
    a, d = real(alpha / divisor), real(1 / divisor)
    rate, eps = real(learning_rate), real(epsilon)
    b1, b2 = real(beta_1), real(beta_2)
    c1, c2 = real(1 - beta_1), real(1 - beta_2)
    norm = _norm(params, n_penalised)
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
