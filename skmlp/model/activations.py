"""The activations of hidden layers, by name, and those that users bring.

A new activation is one entry here and its kernels in `skmlp.kernels`: ``FORWARD``, and
``BACKWARD`` if its derivative follows from its own value, else ``DERIVING``. An object
of a user's own needs neither; see `kernels_of`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt
from types import ModuleType
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Activation:
    """A function applied to every unit of a hidden layer.

    Attributes
    ----------
    name : str
        The name of its kernels.
    init_factor : float
        Numerator ``f`` of the bound of the first weights.
    init_fan : {"both", "in"}
        The bound is ``sqrt(f / (fan_in + fan_out))``, Glorot's, or
        ``sqrt(f / fan_in)``. There ``f = 3 / E[act(z)^2]`` for a standard normal z:
        so the layers keep the variance of their inputs, as He et al. (ICCV 2015)
        derive for relu and LeCun et al. (1998) before them.
    """

    name: str
    init_factor: float = 6.0
    init_fan: str = "both"

    def bound(self, fan_in: int, fan_out: int) -> float:
        """The first weights are uniform between minus this and this."""
        fan = fan_in + fan_out if self.init_fan == "both" else fan_in
        return sqrt(self.init_factor / fan)


#: A test computes the second moments anew.
ACTIVATIONS = {
    activation.name: activation
    for activation in (
        Activation("identity"),
        Activation("logistic", init_factor=2.0),
        Activation("tanh"),
        Activation("relu"),
        Activation("leaky_relu", 3 / 0.50005, "in"),
        Activation("elu", 3 / 0.64494, "in"),
        Activation("selu", 3.0, "in"),
        Activation("gelu", 3 / 0.42522, "in"),
        Activation("silu", 3 / 0.35578, "in"),
        Activation("mish", 3 / 0.45234, "in"),
        Activation("softplus", 3 / 0.92125, "in"),
        Activation("hard_tanh"),
        Activation("hard_sigmoid", init_factor=2.0),
    )
}

#: What a user's own activation must have.
METHODS = ("value", "derivative")


def entry(activation: Any) -> Activation:
    """The entry of a name, or one made for a user's own object."""
    if isinstance(activation, str):
        return ACTIVATIONS[activation]
    return Activation(
        type(activation).__name__, float(getattr(activation, "init_factor", 6.0))
    )


def kernels_of(
    activation: Any, kernels: ModuleType
) -> tuple[Callable[..., None], Callable[..., None] | None, Callable[..., None]]:
    """The functions that compute a hidden layer's activation.

    Parameters
    ----------
    activation : str or object
        A key of `ACTIVATIONS`, or an object with two methods, ``value(z)`` and
        ``derivative(z)``. Each takes the layer's raw values, of shape (rows, width),
        which it must leave alone, and returns an array of this shape. They work on
        each number apart.
    kernels : module
        The kernel set.

    Returns
    -------
    forward : callable
        ``forward(z, b)`` writes the activation of ``z + b`` over `z`.
    deriving : callable or None
        ``deriving(z, b, d)`` writes the derivative into `d` besides; None where the
        derivative follows from the activation's own value.
    backward : callable
        ``backward(d, delta, grad_b, scratch)`` multiplies `delta` by the derivative
        and sums it over the rows; `d` is the derivative, or the activation's value
        where `deriving` is None.
    """
    if isinstance(activation, str):
        forward = kernels.FORWARD[activation]
        if activation in kernels.BACKWARD:
            return forward, None, kernels.BACKWARD[activation]
        return forward, kernels.DERIVING[activation], kernels.scaled_backward

    def value(z: Array, b: Array) -> None:
        z += b
        np.copyto(z, activation.value(z))

    def value_and_derivative(z: Array, b: Array, d: Array) -> None:
        z += b
        np.copyto(d, activation.derivative(z))
        np.copyto(z, activation.value(z))

    return value, value_and_derivative, kernels.scaled_backward
