"""Activations of hidden layers: bias, value, derivative, and the bias's gradient.

``z``, ``a``, ``d`` and ``delta`` are C-contiguous, of shape (rows, width). A forward
kernel writes the activation of ``z + b`` over `z`; a deriving one the derivative into
`d` besides; a backward one multiplies `delta` by the derivative and sums its rows into
`grad_b`. The formulas are those of `skmlp.model.activations`.
"""

# mypy: disable-error-code="no-untyped-call, untyped-decorator"

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from skmlp.kernels.jit import compiled, inner
from skmlp.kernels.math import (
    erf_value,
    exp_value,
    expit_value,
    expm1_value,
    log1p_value,
    tanh_value,
)

Array = np.ndarray[Any, np.dtype[Any]]

#: Constants of `skmlp.model.activations`; a test compares both.
LEAK = 0.01
SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805
#: Above this, tanh(softplus(z)) is 1 in every dtype.
MISH_TOP = 40.0

# -- bias and activation ---------------------------------------------------------------


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


@compiled
def leaky_relu_forward(z: Array, b: Array) -> None:
    """``z + b``, below 0 times a hundredth."""
    zero, leak = z.dtype.type(0), z.dtype.type(LEAK)
    for i in range(z.shape[0]):
        for j in range(z.shape[1]):
            v = z[i, j] + b[j]
            z[i, j] = v if v > zero else leak * v


@compiled
def elu_forward(z: Array, b: Array) -> None:
    """``exp(z + b) - 1`` below 0."""
    zero = z.dtype.type(0)
    for i in range(z.shape[0]):
        for j in range(z.shape[1]):
            v = z[i, j] + b[j]
            low = expm1_value(zero if v > zero else v)
            z[i, j] = v if v > zero else low


@compiled
def selu_forward(z: Array, b: Array) -> None:
    """`elu_forward`, scaled so that mean 0 and variance 1 are kept."""
    zero = z.dtype.type(0)
    alpha, scale = z.dtype.type(SELU_ALPHA), z.dtype.type(SELU_SCALE)
    for i in range(z.shape[0]):
        for j in range(z.shape[1]):
            v = z[i, j] + b[j]
            low = alpha * expm1_value(zero if v > zero else v)
            z[i, j] = scale * (v if v > zero else low)


@compiled
def softplus_forward(z: Array, b: Array) -> None:
    """``log(1 + exp(z + b))``."""
    zero = z.dtype.type(0)
    for i in range(z.shape[0]):
        for j in range(z.shape[1]):
            v = z[i, j] + b[j]
            rest = log1p_value(exp_value(-abs(v)))
            # Not max: NaN stays.
            z[i, j] = (zero if v < zero else v) + rest


@compiled
def hard_tanh_forward(z: Array, b: Array) -> None:
    """``z + b`` between -1 and 1; NaN stays."""
    one = z.dtype.type(1)
    for i in range(z.shape[0]):
        for j in range(z.shape[1]):
            v = z[i, j] + b[j]
            v = -one if v < -one else v
            z[i, j] = one if v > one else v


@compiled
def hard_sigmoid_forward(z: Array, b: Array) -> None:
    """``(z + b) / 6 + 1 / 2`` between 0 and 1; NaN stays."""
    zero, one = z.dtype.type(0), z.dtype.type(1)
    sixth, half = z.dtype.type(1 / 6), z.dtype.type(0.5)
    for i in range(z.shape[0]):
        for j in range(z.shape[1]):
            v = (z[i, j] + b[j]) * sixth + half
            v = zero if v < zero else v
            z[i, j] = one if v > one else v


@compiled
def gelu_forward(z: Array, b: Array) -> None:
    """``x Phi(x)`` of the normal distribution."""
    half, root = z.dtype.type(0.5), z.dtype.type(0.7071067811865476)
    one = z.dtype.type(1)
    for i in range(z.shape[0]):
        for j in range(z.shape[1]):
            v = z[i, j] + b[j]
            z[i, j] = v * (half * (one + erf_value(v * root)))


@compiled
def silu_forward(z: Array, b: Array) -> None:
    """``x s(x)`` with the logistic function s."""
    for i in range(z.shape[0]):
        for j in range(z.shape[1]):
            v = z[i, j] + b[j]
            z[i, j] = v * expit_value(v)


@compiled
def mish_forward(z: Array, b: Array) -> None:
    """``x tanh(softplus(x))``."""
    top, two = z.dtype.type(MISH_TOP), z.dtype.type(2)
    for i in range(z.shape[0]):
        for j in range(z.shape[1]):
            v = z[i, j] + b[j]
            e = exp_value(top if v > top else v)
            n = e * (e + two)
            z[i, j] = v * (n / (n + two))


# -- the derivative besides, where it does not follow from the value -------------------


@compiled
def gelu_deriving(z: Array, b: Array, d: Array) -> None:
    """The derivative besides, ``Phi(x) + x phi(x)``."""
    half, root = z.dtype.type(0.5), z.dtype.type(0.7071067811865476)
    one, peak = z.dtype.type(1), z.dtype.type(0.3989422804014327)
    for i in range(z.shape[0]):
        for j in range(z.shape[1]):
            v = z[i, j] + b[j]
            c = half * (one + erf_value(v * root))
            d[i, j] = c + v * (peak * exp_value(-half * v * v))
            z[i, j] = v * c


@compiled
def silu_deriving(z: Array, b: Array, d: Array) -> None:
    """The derivative besides, ``s + x s (1 - s)``."""
    one = z.dtype.type(1)
    for i in range(z.shape[0]):
        for j in range(z.shape[1]):
            v = z[i, j] + b[j]
            s = expit_value(v)
            d[i, j] = s * (one + v * (one - s))
            z[i, j] = v * s


@compiled
def mish_deriving(z: Array, b: Array, d: Array) -> None:
    """The derivative besides."""
    top, one, two = z.dtype.type(MISH_TOP), z.dtype.type(1), z.dtype.type(2)
    for i in range(z.shape[0]):
        for j in range(z.shape[1]):
            v = z[i, j] + b[j]
            e = exp_value(top if v > top else v)
            n = e * (e + two)
            t = n / (n + two)
            d[i, j] = t + v * (one - t) * (one + t) * (e / (one + e))
            z[i, j] = v * t


# -- the derivative, from the activation's own value -----------------------------------


@compiled
def scaled_backward(d: Array, delta: Array, grad_b: Array) -> None:
    """``delta * d``, where the forward pass has written the derivative into `d`."""
    grad_b[:] = 0
    for i in range(delta.shape[0]):
        for j in range(delta.shape[1]):
            v = delta[i, j] * d[i, j]
            delta[i, j] = v
            grad_b[j] += v


@compiled
def identity_backward(a: Array, delta: Array, grad_b: Array) -> None:
    """Only sum `delta` over the rows into `grad_b`."""
    grad_b[:] = 0
    for i in range(delta.shape[0]):
        for j in range(delta.shape[1]):
            grad_b[j] += delta[i, j]


@compiled
def logistic_backward(a: Array, delta: Array, grad_b: Array) -> None:
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
def tanh_backward(a: Array, delta: Array, grad_b: Array) -> None:
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
def relu_backward(a: Array, delta: Array, grad_b: Array) -> None:
    """``delta`` where the unit is active, else 0."""
    zero = a.dtype.type(0)
    grad_b[:] = 0
    for i in range(delta.shape[0]):
        for j in range(delta.shape[1]):
            d = zero if a[i, j] == zero else delta[i, j]
            delta[i, j] = d
            grad_b[j] += d


@compiled
def leaky_relu_backward(a: Array, delta: Array, grad_b: Array) -> None:
    """``delta`` where the unit is active, else a hundredth of it."""
    zero, leak = a.dtype.type(0), a.dtype.type(LEAK)
    grad_b[:] = 0
    for i in range(delta.shape[0]):
        for j in range(delta.shape[1]):
            v = delta[i, j] if a[i, j] > zero else leak * delta[i, j]
            delta[i, j] = v
            grad_b[j] += v


@inner
def _elu_backward(
    a: Array, delta: Array, grad_b: Array, scale: float, shift: float
) -> None:
    real = a.dtype.type
    zero, high, low = real(0), real(scale), real(shift)
    grad_b[:] = 0
    for i in range(delta.shape[0]):
        for j in range(delta.shape[1]):
            v = delta[i, j] * (high if a[i, j] > zero else a[i, j] + low)
            delta[i, j] = v
            grad_b[j] += v


@compiled
def elu_backward(a: Array, delta: Array, grad_b: Array) -> None:
    """``delta * (a + 1)`` below 0."""
    _elu_backward(a, delta, grad_b, 1.0, 1.0)


@compiled
def selu_backward(a: Array, delta: Array, grad_b: Array) -> None:
    """As `elu_backward`, scaled."""
    _elu_backward(a, delta, grad_b, SELU_SCALE, SELU_SCALE * SELU_ALPHA)


@compiled
def softplus_backward(a: Array, delta: Array, grad_b: Array) -> None:
    """``delta * (1 - exp(-a))``."""
    one = a.dtype.type(1)
    grad_b[:] = 0
    for i in range(delta.shape[0]):
        for j in range(delta.shape[1]):
            v = delta[i, j] * (one - exp_value(-a[i, j]))
            delta[i, j] = v
            grad_b[j] += v


@compiled
def hard_tanh_backward(a: Array, delta: Array, grad_b: Array) -> None:
    """``delta`` within the bounds, else 0."""
    zero, one = a.dtype.type(0), a.dtype.type(1)
    grad_b[:] = 0
    for i in range(delta.shape[0]):
        for j in range(delta.shape[1]):
            v = zero if a[i, j] <= -one or a[i, j] >= one else delta[i, j]
            delta[i, j] = v
            grad_b[j] += v


@compiled
def hard_sigmoid_backward(a: Array, delta: Array, grad_b: Array) -> None:
    """``delta / 6`` within the bounds, else 0."""
    zero, one, sixth = a.dtype.type(0), a.dtype.type(1), a.dtype.type(1 / 6)
    grad_b[:] = 0
    for i in range(delta.shape[0]):
        for j in range(delta.shape[1]):
            inside = not (a[i, j] <= zero or a[i, j] >= one)
            v = sixth * delta[i, j] if inside else zero
            delta[i, j] = v
            grad_b[j] += v


FORWARD: dict[str, Callable[..., None]] = {
    "identity": identity_forward,
    "logistic": logistic_forward,
    "tanh": tanh_forward,
    "relu": relu_forward,
    "leaky_relu": leaky_relu_forward,
    "elu": elu_forward,
    "selu": selu_forward,
    "softplus": softplus_forward,
    "hard_tanh": hard_tanh_forward,
    "hard_sigmoid": hard_sigmoid_forward,
    "gelu": gelu_forward,
    "silu": silu_forward,
    "mish": mish_forward,
}
DERIVING: dict[str, Callable[..., None]] = {
    "gelu": gelu_deriving,
    "silu": silu_deriving,
    "mish": mish_deriving,
}
BACKWARD: dict[str, Callable[..., None]] = {
    "identity": identity_backward,
    "logistic": logistic_backward,
    "tanh": tanh_backward,
    "relu": relu_backward,
    "leaky_relu": leaky_relu_backward,
    "elu": elu_backward,
    "selu": selu_backward,
    "softplus": softplus_backward,
    "hard_tanh": hard_tanh_backward,
    "hard_sigmoid": hard_sigmoid_backward,
}
