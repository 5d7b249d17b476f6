"""Activations of hidden layers: bias, value, derivative, and the bias's gradient.

Here stands what happens to one number; `_forward`, `_deriving` and `_backward` make the
kernels of it. ``z``, ``a``, ``d`` and ``delta`` are C-contiguous, of shape (rows,
width), and give their functions the dtype. The formulas are those of
`skmlp.model.activations`.
"""

# mypy cannot see what numba infers; every function takes and gives one number.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

from collections.abc import Callable

from skmlp.arrays import Array
from skmlp.kernels.jit import compiled, inner, named
from skmlp.kernels.math import (
    erf_value,
    exp_value,
    expit_value,
    expm1_value,
    log1p_value,
    tanh_value,
)

#: Constants of `skmlp.model.activations`; a test compares both.
LEAK = 0.01
SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805
#: Above this, tanh(softplus(z)) is 1 in every dtype.
MISH_TOP = 40.0


def _forward(value: Callable[..., float]) -> Callable[[Array, Array], None]:
    """Make the kernel that writes ``value(z + b)`` over `z`."""

    def forward(z: Array, b: Array) -> None:
        for i in range(z.shape[0]):
            for j in range(z.shape[1]):
                z[i, j] = value(z, z[i, j] + b[j])

    kernel: Callable[[Array, Array], None] = compiled(named(forward, value))
    return kernel


def _deriving(both: Callable[..., tuple[float, float]]) -> Callable[..., None]:
    """Make the kernel that besides writes the derivative into `d`."""

    def deriving(z: Array, b: Array, d: Array) -> None:
        for i in range(z.shape[0]):
            for j in range(z.shape[1]):
                z[i, j], d[i, j] = both(z, z[i, j] + b[j])

    kernel: Callable[..., None] = compiled(named(deriving, both))
    return kernel


def _backward(product: Callable[..., float]) -> Callable[..., None]:
    """Make the kernel that multiplies `delta` by the derivative, and sums its rows.

    ``product(a, v, d)`` knows the activation's value or the derivative, `v`.
    """

    def backward(a: Array, delta: Array, grad_b: Array) -> None:
        grad_b[:] = 0
        for i in range(delta.shape[0]):
            for j in range(delta.shape[1]):
                d = product(a, a[i, j], delta[i, j])
                delta[i, j] = d
                grad_b[j] += d

    kernel: Callable[..., None] = compiled(named(backward, product))
    return kernel


# -- the value ------------------------------------------------------------------------
# Comparisons are false for NaN, which stays.


@inner
def _identity(z, v):
    return v


@inner
def _logistic(z, v):
    return expit_value(v)


@inner
def _tanh(z, v):
    return tanh_value(v)


@inner
def _relu(z, v):
    zero = z.dtype.type(0)
    return zero if v <= zero else v


@inner
def _leaky_relu(z, v):
    return v if v > z.dtype.type(0) else z.dtype.type(LEAK) * v


@inner
def _elu(z, v):
    zero = z.dtype.type(0)
    low = expm1_value(zero if v > zero else v)
    return v if v > zero else low


@inner
def _selu(z, v):
    zero, alpha = z.dtype.type(0), z.dtype.type(SELU_ALPHA)
    low = alpha * expm1_value(zero if v > zero else v)
    return z.dtype.type(SELU_SCALE) * (v if v > zero else low)


@inner
def _softplus(z, v):
    zero = z.dtype.type(0)
    return (zero if v < zero else v) + log1p_value(exp_value(-abs(v)))


@inner
def _hard_tanh(z, v):
    one = z.dtype.type(1)
    v = -one if v < -one else v
    return one if v > one else v


@inner
def _hard_sigmoid(z, v):
    zero, one = z.dtype.type(0), z.dtype.type(1)
    v = v * z.dtype.type(1 / 6) + z.dtype.type(0.5)
    v = zero if v < zero else v
    return one if v > one else v


# -- value and derivative, where it does not follow from the value --------------------


@inner
def _gelu(z, v):
    half, root = z.dtype.type(0.5), z.dtype.type(0.7071067811865476)
    one, peak = z.dtype.type(1), z.dtype.type(0.3989422804014327)
    c = half * (one + erf_value(v * root))
    return v * c, c + v * (peak * exp_value(-half * v * v))


@inner
def _silu(z, v):
    one, s = z.dtype.type(1), expit_value(v)
    return v * s, s * (one + v * (one - s))


@inner
def _mish(z, v):
    top, one, two = z.dtype.type(MISH_TOP), z.dtype.type(1), z.dtype.type(2)
    e = exp_value(top if v > top else v)
    n = e * (e + two)
    t = n / (n + two)
    return v * t, t + v * (one - t) * (one + t) * (e / (one + e))


@inner
def _gelu_value(z, v):
    return _gelu(z, v)[0]


@inner
def _silu_value(z, v):
    return _silu(z, v)[0]


@inner
def _mish_value(z, v):
    return _mish(z, v)[0]


# -- `delta` times the derivative, from the value --------------------------------------


@inner
def _scaled(a, v, d):
    return d * v


@inner
def _alone(a, v, d):
    return d


@inner
def _logistic_back(a, v, d):
    return d * v * (a.dtype.type(1) - v)


@inner
def _tanh_back(a, v, d):
    return d * (a.dtype.type(1) - v * v)


@inner
def _relu_back(a, v, d):
    zero = a.dtype.type(0)
    return zero if v == zero else d


@inner
def _leaky_relu_back(a, v, d):
    return d if v > a.dtype.type(0) else a.dtype.type(LEAK) * d


@inner
def _elu_back(a, v, d):
    one = a.dtype.type(1)
    return d * (one if v > a.dtype.type(0) else v + one)


@inner
def _selu_back(a, v, d):
    scale, low = a.dtype.type(SELU_SCALE), a.dtype.type(SELU_SCALE * SELU_ALPHA)
    return d * (scale if v > a.dtype.type(0) else v + low)


@inner
def _softplus_back(a, v, d):
    return d * (a.dtype.type(1) - exp_value(-v))


@inner
def _hard_tanh_back(a, v, d):
    one = a.dtype.type(1)
    return a.dtype.type(0) if v <= -one or v >= one else d


@inner
def _hard_sigmoid_back(a, v, d):
    zero, inside = a.dtype.type(0), not (v <= a.dtype.type(0) or v >= a.dtype.type(1))
    return a.dtype.type(1 / 6) * d if inside else zero


logistic_forward = _forward(_logistic)
FORWARD = {
    "identity": _forward(_identity),
    "logistic": logistic_forward,
    "tanh": _forward(_tanh),
    "relu": _forward(_relu),
    "leaky_relu": _forward(_leaky_relu),
    "elu": _forward(_elu),
    "selu": _forward(_selu),
    "softplus": _forward(_softplus),
    "hard_tanh": _forward(_hard_tanh),
    "hard_sigmoid": _forward(_hard_sigmoid),
    "gelu": _forward(_gelu_value),
    "silu": _forward(_silu_value),
    "mish": _forward(_mish_value),
}
DERIVING = {
    "gelu": _deriving(_gelu),
    "silu": _deriving(_silu),
    "mish": _deriving(_mish),
}
scaled_backward = _backward(_scaled)
BACKWARD = {
    "identity": _backward(_alone),
    "logistic": _backward(_logistic_back),
    "tanh": _backward(_tanh_back),
    "relu": _backward(_relu_back),
    "leaky_relu": _backward(_leaky_relu_back),
    "elu": _backward(_elu_back),
    "selu": _backward(_selu_back),
    "softplus": _backward(_softplus_back),
    "hard_tanh": _backward(_hard_tanh_back),
    "hard_sigmoid": _backward(_hard_sigmoid_back),
}
