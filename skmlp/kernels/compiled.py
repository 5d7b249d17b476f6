"""The fused loops of the step, compiled by numba: the fast twin of `reference`.

Each function does what its namesake in `skmlp.kernels.reference` does, in one pass and
without scratch room. The activations and losses are here, the updates and the sparse
products in `skmlp.kernels.compiled_updates`.
"""

# mypy: disable-error-code="no-untyped-call, untyped-decorator"
# mypy: disable-error-code="call-arg, unreachable"

from __future__ import annotations

from collections.abc import Callable
from math import log
from typing import Any

import numpy as np

from skmlp.kernels import compiled_activations as more_activations
from skmlp.kernels import compiled_losses as more_losses
from skmlp.kernels import compiled_solvers as more_solvers
from skmlp.kernels.compiled_activations import scaled_backward
from skmlp.kernels.compiled_dropout import csr_dropout, dropout_mask
from skmlp.kernels.compiled_missing import gather_known, scatter_known
from skmlp.kernels.compiled_solvers import (
    absolute_sum,
    gradient_norm,
    move_average,
    soft_threshold,
)
from skmlp.kernels.compiled_updates import (
    adam_step,
    all_finite,
    compiled,
    csr_dot,
    csr_transposed_dot,
    eps_of,
    inner,
    sgd_step,
)
from skmlp.kernels.pointers import line
from skmlp.kernels.vector_math import exp_value, expit_value, tanh_value

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

name = "compiled"
#: Whether the kernels use `scratch` at all.
needs_scratch = False

# -- hidden layers: bias and activation ------------------------------------------------


@compiled
def identity_forward(z: Array, b: Array) -> None:
    """``z + b``."""
    for i in range(z.shape[0]):
        for j in range(z.shape[1]):
            z[i, j] += b[j]


@compiled
def logistic_forward(z: Array, b: Array) -> None:
    """``1 / (1 + exp(-(z + b)))``."""
    for i in range(z.shape[0]):
        for j in range(z.shape[1]):
            z[i, j] = expit_value(z[i, j] + b[j])


@compiled
def tanh_forward(z: Array, b: Array) -> None:
    """``tanh(z + b)``."""
    for i in range(z.shape[0]):
        for j in range(z.shape[1]):
            z[i, j] = tanh_value(z[i, j] + b[j])


@compiled
def relu_forward(z: Array, b: Array) -> None:
    """``max(z + b, 0)``; the comparison is false for NaN, which stays."""
    zero = z.dtype.type(0)
    for i in range(z.shape[0]):
        for j in range(z.shape[1]):
            v = z[i, j] + b[j]
            z[i, j] = zero if v <= zero else v


# -- hidden layers: the derivative, from the activation's own value ----------------


@compiled
def identity_backward(a: Array, delta: Array, grad_b: Array, scratch: Array) -> None:
    """Only sum `delta` over the rows into `grad_b`."""
    grad_b[:] = 0
    for i in range(delta.shape[0]):
        for j in range(delta.shape[1]):
            grad_b[j] += delta[i, j]


@compiled
def logistic_backward(a: Array, delta: Array, grad_b: Array, scratch: Array) -> None:
    """``delta * a * (1 - a)``."""
    one = a.dtype.type(1)
    grad_b[:] = 0
    for i in range(delta.shape[0]):
        for j in range(delta.shape[1]):
            v = a[i, j]
            d = delta[i, j] * v * (one - v)
            delta[i, j] = d
            grad_b[j] += d


@compiled
def tanh_backward(a: Array, delta: Array, grad_b: Array, scratch: Array) -> None:
    """``delta * (1 - a^2)``."""
    one = a.dtype.type(1)
    grad_b[:] = 0
    for i in range(delta.shape[0]):
        for j in range(delta.shape[1]):
            v = a[i, j]
            d = delta[i, j] * (one - v * v)
            delta[i, j] = d
            grad_b[j] += d


@compiled
def relu_backward(a: Array, delta: Array, grad_b: Array, scratch: Array) -> None:
    """``delta`` where the unit is active, else 0."""
    zero = a.dtype.type(0)
    grad_b[:] = 0
    for i in range(delta.shape[0]):
        for j in range(delta.shape[1]):
            d = zero if a[i, j] == zero else delta[i, j]
            delta[i, j] = d
            grad_b[j] += d


# -- output layer: bias and activation -------------------------------------------------


@compiled
def exp_forward(z: Array, b: Array) -> None:
    """``exp(z + b)``."""
    for i in range(z.shape[0]):
        for j in range(z.shape[1]):
            z[i, j] = exp_value(z[i, j] + b[j])


@compiled
def softmax_forward(z: Array, b: Array) -> None:
    """Softmax of ``z + b`` over the columns."""
    one = z.dtype.type(1)
    for i in range(z.shape[0]):
        top = z[i, 0] + b[0]
        for j in range(z.shape[1]):
            v = z[i, j] + b[j]
            z[i, j] = v
            top = v if v > top else top
        for j in range(z.shape[1]):
            z[i, j] -= top
    # In one line: a row is too short to fill the vectors.
    flat: Array = line(z, 0, z.size)
    for k in range(flat.size):
        flat[k] = exp_value(flat[k])
    for i in range(z.shape[0]):
        total = z.dtype.type(0)
        for j in range(z.shape[1]):
            total += z[i, j]
        scale = one / total
        for j in range(z.shape[1]):
            z[i, j] *= scale


# -- output layer: loss and its gradient -----------------------------------------------


#: So many probabilities, none below eps, can be multiplied without underflow.
_FACTORS = 16


@inner
def _clip(p, eps):  # type: ignore[no-untyped-def]  # numba infers the types
    """Keep a probability off 0 and 1; NaN stays."""
    p = eps if p < eps else p
    return 1 - eps if p > 1 - eps else p


@inner
def _with_factor(loss, likelihood, factors, p):  # type: ignore[no-untyped-def]  # as `_clip`
    """One more probability: many of them share a logarithm, that of their product."""
    if factors == _FACTORS:
        return loss - log(likelihood), p, 1
    return loss, likelihood * p, factors + 1


@compiled
def softmax_log_loss(
    z: Array, b: Array, y: Array, w: Array, grad_b: Array, scratch: Array
) -> float:
    """Cross entropy of the softmax. See the reference."""
    softmax_forward(z, b)
    eps = eps_of(z)
    one = z.dtype.type(1)
    grad_b[:] = 0
    loss = 0.0
    likelihood, factors = 1.0, 0
    for i in range(z.shape[0]):
        p = _clip(float(z[i, y[i]]), eps)
        z[i, y[i]] -= one
        if w.size:
            loss -= log(p) * float(w[i])
            for j in range(z.shape[1]):
                z[i, j] *= w[i]
        else:
            loss, likelihood, factors = _with_factor(loss, likelihood, factors, p)
        for j in range(z.shape[1]):
            grad_b[j] += z[i, j]
    return loss - log(likelihood)


@compiled
def logistic_log_loss(
    z: Array, b: Array, y: Array, w: Array, grad_b: Array, scratch: Array
) -> float:
    """Binary cross entropy of the logistic function. See the reference."""
    eps = eps_of(z)
    logistic_forward(z, b)
    one, zero = z.dtype.type(1), z.dtype.type(0)
    grad_b[:] = 0
    loss = 0.0
    likelihood, factors = 1.0, 0
    for i in range(z.shape[0]):
        for j in range(z.shape[1]):
            p = _clip(float(z[i, j]), eps)
            p = p if y[i, j] else 1.0 - p
            z[i, j] -= one if y[i, j] else zero
            if w.size:
                loss -= log(p) * float(w[i])
                z[i, j] *= w[i]
            else:
                loss, likelihood, factors = _with_factor(loss, likelihood, factors, p)
            grad_b[j] += z[i, j]
    return loss - log(likelihood)


@compiled
def squared_error(
    z: Array, b: Array, y: Array, w: Array, grad_b: Array, scratch: Array
) -> float:
    """Half the squared error. See the reference."""
    grad_b[:] = 0
    loss = 0.0
    for i in range(z.shape[0]):
        value = 0.0
        for j in range(z.shape[1]):
            d = z[i, j] + b[j] - y[i, j]
            value += float(d) * float(d)
            z[i, j] = d
        if w.size:
            value *= float(w[i])
            for j in range(z.shape[1]):
                z[i, j] *= w[i]
        loss += value
        for j in range(z.shape[1]):
            grad_b[j] += z[i, j]
    return 0.5 * loss


@compiled
def poisson(
    z: Array, b: Array, y: Array, w: Array, grad_b: Array, scratch: Array
) -> float:
    """Half the Poisson deviance. See the reference."""
    exp_forward(z, b)
    grad_b[:] = 0
    loss = 0.0
    for i in range(z.shape[0]):
        value = 0.0
        for j in range(z.shape[1]):
            p, t = float(z[i, j]), float(y[i, j])
            value += p - t
            # As scipy's xlogy: 0 for a target of 0, unless the other is NaN.
            if t != 0.0 or p != p:
                value += t * log(t / p)
            z[i, j] -= y[i, j]
        if w.size:
            value *= float(w[i])
            for j in range(z.shape[1]):
                z[i, j] *= w[i]
        loss += value
        for j in range(z.shape[1]):
            grad_b[j] += z[i, j]
    return loss


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
