"""The activations that scikit-learn has not, in numpy: the readable reference.

As in `skmlp.kernels.reference`, but for one thing: these allocate what they need.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from skmlp.kernels.special import erf, expit

Array = np.ndarray[Any, np.dtype[Any]]

#: Slope of leaky_relu below 0 (Maas, Hannun and Ng, 2013, and every library since).
LEAK = 0.01
#: Klambauer et al., "Self-normalizing neural networks", NeurIPS 2017.
SELU_ALPHA = 1.6732632423543772
SELU_SCALE = 1.0507009873554805
#: Above this, tanh(softplus(z)) is 1 in every dtype.
MISH_TOP = 40.0

# -- bias and activation ---------------------------------------------------------------


def leaky_relu_forward(z: Array, b: Array) -> None:
    """``z + b``, below 0 times a hundredth."""
    z += b
    np.multiply(z, z.dtype.type(LEAK), out=z, where=~(z > 0))


def elu_forward(z: Array, b: Array) -> None:
    """``exp(z + b) - 1`` below 0 (Clevert et al., ICLR 2016)."""
    z += b
    np.expm1(z, out=z, where=~(z > 0))


def selu_forward(z: Array, b: Array) -> None:
    """`elu_forward`, scaled so that mean 0 and variance 1 are kept."""
    z += b
    below = ~(z > 0)
    np.expm1(z, out=z, where=below)
    np.multiply(z, z.dtype.type(SELU_ALPHA), out=z, where=below)
    z *= z.dtype.type(SELU_SCALE)


def softplus_forward(z: Array, b: Array) -> None:
    """``log(1 + exp(z + b))``."""
    z += b
    np.copyto(z, np.maximum(z, 0) + np.log1p(np.exp(-np.abs(z))))


def hard_tanh_forward(z: Array, b: Array) -> None:
    """``z + b`` between -1 and 1."""
    z += b
    np.clip(z, -1, 1, out=z)


def hard_sigmoid_forward(z: Array, b: Array) -> None:
    """``(z + b) / 6 + 1 / 2`` between 0 and 1."""
    z += b
    z *= z.dtype.type(1 / 6)
    z += z.dtype.type(0.5)
    np.clip(z, 0, 1, out=z)


def gelu_deriving(z: Array, b: Array, d: Array) -> None:
    """``x Phi(x)`` of the normal distribution (Hendrycks and Gimpel, 2016), exactly.

    The derivative, ``Phi(x) + x phi(x)``, goes into `d`.
    """
    z += b
    half, root = z.dtype.type(0.5), z.dtype.type(0.7071067811865476)
    cumulative = half * (1 + erf(z * root))
    density = z.dtype.type(0.3989422804014327) * np.exp(-half * z * z)
    np.copyto(d, cumulative + z * density)
    z *= cumulative


def silu_deriving(z: Array, b: Array, d: Array) -> None:
    """``x s(x)`` with the logistic function s (also: swish; Elfwing et al., 2017)."""
    z += b
    s = expit(z)
    np.copyto(d, s * (1 + z * (1 - s)))
    z *= s


def mish_deriving(z: Array, b: Array, d: Array) -> None:
    """``x tanh(softplus(x))`` (Misra, BMVC 2020)."""
    z += b
    e = np.exp(np.minimum(z, z.dtype.type(MISH_TOP)))
    n = e * (e + 2)
    t = n / (n + 2)
    np.copyto(d, t + z * (1 - t) * (1 + t) * (e / (1 + e)))
    z *= t


def _without_derivative(
    deriving: Callable[[Array, Array, Array], None],
) -> Callable[[Array, Array], None]:
    def forward(z: Array, b: Array) -> None:
        deriving(z, b, np.empty_like(z))

    return forward


# -- the derivative, from the activation's own value -----------------------------------


def scaled_backward(d: Array, delta: Array, grad_b: Array, scratch: Array) -> None:
    """``delta * d``, where the forward pass has written the derivative into `d`."""
    delta *= d
    delta.sum(axis=0, out=grad_b)


def _backward(delta: Array, derivative: Array, grad_b: Array) -> None:
    delta *= derivative.astype(delta.dtype)
    delta.sum(axis=0, out=grad_b)


def leaky_relu_backward(a: Array, delta: Array, grad_b: Array, scratch: Array) -> None:
    """``delta`` where the unit is active, else a hundredth of it."""
    _backward(delta, np.where(a > 0, 1, LEAK), grad_b)


def elu_backward(a: Array, delta: Array, grad_b: Array, scratch: Array) -> None:
    """``delta * (a + 1)`` below 0."""
    _backward(delta, np.where(a > 0, 1, a + 1), grad_b)


def selu_backward(a: Array, delta: Array, grad_b: Array, scratch: Array) -> None:
    """As `elu_backward`, scaled."""
    low = a + a.dtype.type(SELU_SCALE * SELU_ALPHA)
    _backward(delta, np.where(a > 0, a.dtype.type(SELU_SCALE), low), grad_b)


def softplus_backward(a: Array, delta: Array, grad_b: Array, scratch: Array) -> None:
    """``delta * (1 - exp(-a))``."""
    _backward(delta, 1 - np.exp(-a), grad_b)


def hard_tanh_backward(a: Array, delta: Array, grad_b: Array, scratch: Array) -> None:
    """``delta`` within the bounds, else 0."""
    np.copyto(delta, 0, where=(a <= -1) | (a >= 1))
    delta.sum(axis=0, out=grad_b)


def hard_sigmoid_backward(
    a: Array, delta: Array, grad_b: Array, scratch: Array
) -> None:
    """``delta / 6`` within the bounds, else 0."""
    delta *= delta.dtype.type(1 / 6)
    np.copyto(delta, 0, where=(a <= 0) | (a >= 1))
    delta.sum(axis=0, out=grad_b)


DERIVING: dict[str, Callable[..., None]] = {
    "gelu": gelu_deriving,
    "silu": silu_deriving,
    "mish": mish_deriving,
}
FORWARD: dict[str, Callable[..., None]] = {
    "leaky_relu": leaky_relu_forward,
    "elu": elu_forward,
    "selu": selu_forward,
    "softplus": softplus_forward,
    "hard_tanh": hard_tanh_forward,
    "hard_sigmoid": hard_sigmoid_forward,
    **{name: _without_derivative(kernel) for name, kernel in DERIVING.items()},
}
BACKWARD: dict[str, Callable[..., None]] = {
    "leaky_relu": leaky_relu_backward,
    "elu": elu_backward,
    "selu": selu_backward,
    "softplus": softplus_backward,
    "hard_tanh": hard_tanh_backward,
    "hard_sigmoid": hard_sigmoid_backward,
}
