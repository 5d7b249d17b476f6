"""The activations of hidden layers, by name, and those that users bring.

A new activation is one entry in `ACTIVATIONS` and its kernels in
`skmlp.kernels.activations`: ``FORWARD``, and ``BACKWARD`` if its derivative follows
from its own value, else ``DERIVING``. An object of a user's own needs no kernels.

The formulas are written against the array API standard: `xp` is the namespace of the
arrays. In numpy they are the fall-back without numba, and what the tests hold the
kernels against. NaN stays NaN, so that a fit that diverges shows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import pi, sqrt
from types import ModuleType
from typing import Any

import numpy as np

from skmlp.arrays import Array
from skmlp.fused import expit, rectified, rectified_backward
from skmlp.model.special import bounded, erf, softplus

#: Slope of leaky_relu below 0 (Maas, Hannun and Ng, 2013, and every library since).
LEAK = 0.01
#: Klambauer et al., "Self-normalizing neural networks", NeurIPS 2017.
SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805


@dataclass(frozen=True)
class Activation:
    """A function applied to every unit of a hidden layer.

    ``value(xp, z)``; ``backward(xp, z, delta)`` is `delta` times the derivative at `z`,
    or, with `of_value`, ``backward(xp, a, delta)`` with ``a = value(xp, z)``. Where a
    library works in place, `delta` may be written over, and `z` with `of_value`.

    The first weights are uniform, within ``sqrt(init_factor / (fan_in + fan_out))``,
    Glorot's, or with ``init_fan = "in"`` within ``sqrt(init_factor / fan_in)``. There
    the factor is ``3 / E[act(z)^2]`` for a standard normal z: so the layers keep the
    variance of their inputs, as He et al. (ICCV 2015) derive for relu and LeCun et al.
    (1998) before them.

    ``onnx(g, z)`` writes it with ``g.add(operation, *inputs)``, of operations that
    onnxruntime has in float64 as well as in float32, and returns the result's name.
    """

    name: str
    value: Callable[[Any, Any], Any]
    backward: Callable[[Any, Any, Any], Any]
    of_value: bool = True
    init_factor: float = 6.0
    init_fan: str = "both"
    onnx: Callable[[Any, str], str] | None = None

    def bound(self, fan_in: int, fan_out: int) -> float:
        """Return the bound of the first weights, which are uniform."""
        fan = fan_in + fan_out if self.init_fan == "both" else fan_in
        return sqrt(self.init_factor / fan)


def _elu(xp: Any, z: Any) -> Any:
    """Clevert, Unterthiner and Hochreiter, ICLR 2016."""
    return xp.where(z > 0, z, xp.expm1(xp.where(z > 0, xp.zeros_like(z), z)))


def _selu(xp: Any, z: Any) -> Any:
    below = SELU_ALPHA * xp.expm1(xp.where(z > 0, xp.zeros_like(z), z))
    return SELU_SCALE * xp.where(z > 0, z, below)


def _selu_backward(xp: Any, a: Any, delta: Any) -> Any:
    below = delta * (a + SELU_SCALE * SELU_ALPHA)
    return xp.where(a > 0, SELU_SCALE * delta, below)


def _inside(xp: Any, a: Any, delta: Any, low: float, high: float) -> Any:
    """Return `delta` between the bounds, else 0."""
    return xp.where((a <= low) | (a >= high), xp.zeros_like(delta), delta)


def _gelu(xp: Any, z: Any) -> Any:
    """``z Phi(z)`` of the normal distribution (Hendrycks and Gimpel, 2016), exactly."""
    return z * (0.5 * (1 + erf(xp, z * sqrt(0.5))))


def _gelu_backward(xp: Any, z: Any, delta: Any) -> Any:
    density = xp.exp(-0.5 * z * z) / sqrt(2 * pi)
    return delta * (0.5 * (1 + erf(xp, z * sqrt(0.5))) + z * density)


def _silu_backward(xp: Any, z: Any, delta: Any) -> Any:
    s = expit(xp, z)
    return delta * (s * (1 + z * (1 - s)))


def _tanh_of_softplus(xp: Any, z: Any) -> Any:
    """``tanh(softplus(z))``, without a logarithm. Above 40 it is 1 in every dtype."""
    e = xp.exp(xp.where(z > 40, 40 * xp.ones_like(z), z))
    n = e * (e + 2)
    return n / (n + 2)


def _mish_backward(xp: Any, z: Any, delta: Any) -> Any:
    t = _tanh_of_softplus(xp, z)
    return delta * (t + z * (1 - t) * (1 + t) * expit(xp, z))


# ---- In ONNX -----------------------------------------------------------------------


def _elu_onnx(g: Any, z: str, alpha: float = 1.0, scale: float = 1.0) -> str:
    below = g.add("Sub", g.add("Exp", g.add("Min", z, 0.0)), 1.0)
    both = g.add("Add", g.add("Max", z, 0.0), g.add("Mul", below, alpha))
    return str(g.add("Mul", both, scale))


def _gelu_onnx(g: Any, z: str) -> str:
    # onnxruntime lacks Erf in float64.
    cumulative = g.add("Add", g.add("Erf", g.add("Mul", z, sqrt(0.5))), 1.0)
    return str(g.add("Mul", g.add("Mul", z, 0.5), cumulative))


def _softplus_onnx(g: Any, z: str) -> str:
    tail = g.add("Add", g.add("Exp", g.add("Neg", g.add("Abs", z))), 1.0)
    return str(g.add("Add", g.add("Max", z, 0.0), g.add("Log", tail)))


def _bounded_onnx(g: Any, z: str, low: float, high: float) -> str:
    return str(g.add("Max", g.add("Min", z, high), low))


#: A test computes the second moments of `init_factor` anew.
ACTIVATIONS = {
    activation.name: activation
    for activation in (
        Activation(
            "identity",
            lambda xp, z: z,
            lambda xp, a, delta: delta,
            onnx=lambda g, z: g.add("Identity", z),
        ),
        Activation(
            "logistic",
            expit,
            lambda xp, a, delta: delta * a * (1 - a),
            init_factor=2.0,
            onnx=lambda g, z: g.add("Sigmoid", z),
        ),
        Activation(
            "tanh",
            lambda xp, z: xp.tanh(z),
            lambda xp, a, delta: delta * (1 - a * a),
            onnx=lambda g, z: g.add("Tanh", z),
        ),
        Activation(
            "relu",
            rectified,
            rectified_backward,
            onnx=lambda g, z: g.add("Relu", z),
        ),
        Activation(
            "leaky_relu",
            lambda xp, z: xp.where(z > 0, z, LEAK * z),
            lambda xp, a, delta: xp.where(a > 0, delta, LEAK * delta),
            init_factor=3 / 0.50005,
            init_fan="in",
            onnx=lambda g, z: g.add("Max", z, g.add("Mul", z, LEAK)),
        ),
        Activation(
            "elu",
            _elu,
            lambda xp, a, delta: xp.where(a > 0, delta, delta * (a + 1)),
            init_factor=3 / 0.64494,
            init_fan="in",
            onnx=_elu_onnx,
        ),
        Activation(
            "selu",
            _selu,
            _selu_backward,
            init_factor=3.0,
            init_fan="in",
            onnx=lambda g, z: _elu_onnx(g, z, SELU_ALPHA, SELU_SCALE),
        ),
        Activation(
            "gelu",
            _gelu,
            _gelu_backward,
            of_value=False,
            init_factor=3 / 0.42522,
            init_fan="in",
            onnx=_gelu_onnx,
        ),
        Activation(
            "silu",  # also: swish (Elfwing, Uchibe and Doya, 2017)
            lambda xp, z: z * expit(xp, z),
            _silu_backward,
            of_value=False,
            init_factor=3 / 0.35578,
            init_fan="in",
            onnx=lambda g, z: g.add("Mul", z, g.add("Sigmoid", z)),
        ),
        Activation(
            "mish",  # ``z tanh(softplus(z))`` (Misra, BMVC 2020)
            lambda xp, z: z * _tanh_of_softplus(xp, z),
            _mish_backward,
            of_value=False,
            init_factor=3 / 0.45234,
            init_fan="in",
            onnx=lambda g, z: g.add("Mul", z, g.add("Tanh", _softplus_onnx(g, z))),
        ),
        Activation(
            "softplus",
            softplus,
            lambda xp, a, delta: -delta * xp.expm1(-a),
            init_factor=3 / 0.92125,
            init_fan="in",
            onnx=_softplus_onnx,
        ),
        Activation(
            "hard_tanh",
            lambda xp, z: bounded(xp, z, -1.0, 1.0),
            lambda xp, a, delta: _inside(xp, a, delta, -1.0, 1.0),
            onnx=lambda g, z: _bounded_onnx(g, z, -1.0, 1.0),
        ),
        Activation(
            "hard_sigmoid",
            lambda xp, z: bounded(xp, z / 6 + 0.5, 0.0, 1.0),
            lambda xp, a, delta: _inside(xp, a, delta / 6, 0.0, 1.0),
            init_factor=2.0,
            onnx=lambda g, z: _bounded_onnx(
                g, g.add("Add", g.add("Mul", z, 1 / 6), 0.5), 0.0, 1.0
            ),
        ),
    )
}

#: What a user's own activation must have.
METHODS = ("value", "derivative")


def entry(activation: Any) -> Activation:
    """Return the entry of a name, or one made for a user's own object."""
    if isinstance(activation, str):
        return ACTIVATIONS[activation]
    return Activation(
        type(activation).__name__,
        lambda xp, z: activation.value(z),
        lambda xp, z, delta: delta * activation.derivative(z),
        of_value=False,
        init_factor=float(getattr(activation, "init_factor", 6.0)),
    )


def kernels_of(
    activation: Any, kernels: ModuleType
) -> tuple[Callable[..., None], Callable[..., None] | None, Callable[..., None]]:
    """Return the functions that compute a hidden layer's activation.

    `activation` is a key of `ACTIVATIONS`, or an object with ``value(z)`` and
    ``derivative(z)``, which work on each number apart and leave `z` alone. The formula
    serves where the set has no kernel. ``forward(z, b)`` writes the activation of ``z +
    b`` over `z`; ``deriving(z, b, d)``, None where the derivative follows from the
    value, writes into `d` besides what `backward` needs; ``backward(d, delta, grad_b)``
    multiplies `delta` by the derivative and sums its rows into `grad_b`.
    """
    if isinstance(activation, str) and activation in kernels.FORWARD:
        forward = kernels.FORWARD[activation]
        if activation in kernels.BACKWARD:
            return forward, None, kernels.BACKWARD[activation]
        return forward, kernels.DERIVING[activation], kernels.scaled_backward
    found = entry(activation)

    def forward_in_numpy(z: Array, b: Array) -> None:
        z += b
        np.copyto(z, found.value(np, z))

    def keeping(z: Array, b: Array, d: Array) -> None:
        np.add(z, b, out=d)
        np.copyto(z, found.value(np, d))

    def backward(d: Array, delta: Array, grad_b: Array) -> None:
        np.copyto(delta, found.backward(np, d, delta))
        np.sum(delta, axis=0, out=grad_b)

    return forward_in_numpy, None if found.of_value else keeping, backward
